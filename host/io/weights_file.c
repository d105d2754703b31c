#include "io/weights_file.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "io/mapped_file.h"
#include "io/onnx.h"
#include "io/pytorch.h"
#include "io/safetensors.h"

typedef struct mistake {
    const char *begin;
    size_t length, at;
    const char *is, *todo;
} mistake;

const char *hl_weights_format_name(hl_weights_format format)
{
    static const char *const names[] = {"unknown", "safetensors", "PyTorch (zip)", "PyTorch (legacy)",
                                        "ONNX"};
    return names[format];
}

hl_weights_format hl_weights_sniff(const void *memory, size_t size)
{
    const uint8_t *bytes = memory;
    if (size >= 4 && memcmp(bytes, "PK\3\4", 4) == 0)
        return HL_WEIGHTS_PYTORCH_ZIP;
    if (hl_pytorch_is_legacy(bytes, size))
        return HL_WEIGHTS_PYTORCH_LEGACY;
    /* A length below 2^32 and the opening of a JSON object. */
    if (size >= 9 && bytes[8] == '{' && bytes[4] == 0 && bytes[5] == 0 && bytes[6] == 0 && bytes[7] == 0)
        return HL_WEIGHTS_SAFETENSORS;
    if (hl_onnx_sniff(bytes, size))
        return HL_WEIGHTS_ONNX;
    return HL_WEIGHTS_UNKNOWN;
}

/* Says what a file that is no weights file looks like. */
static hl_status explain(const char *path, const uint8_t *bytes, size_t size)
{
    static const char convert[] = "convert it to .safetensors in Python", whole[] = "download it again";
    static const mistake mistakes[] = {
        {"version https://git-lfs", 23, 0, "a git-lfs pointer, not the file itself", "run git lfs pull"},
        {"\x89HDF\r\n", 6, 0, "an HDF5 file (Keras?)", convert},
        {"\x93NUMPY", 6, 0, "a NumPy array", convert},
        {"\x1f\x8b", 2, 0, "compressed with gzip", "unpack it first"},
        {"BZh", 3, 0, "compressed with bzip2", "unpack it first"},
        {"\xfd"
         "7zXZ",
         5, 0, "compressed with xz", "unpack it first"},
        {"(\xb5/\xfd", 4, 0, "compressed with zstd", "unpack it first"},
        {"ustar", 5, 257, "a tar archive (PyTorch before 0.1.10 wrote those)", convert},
        {"TFL3", 4, 4, "a TensorFlow Lite model", convert},
        {"GGUF", 4, 0, "a GGUF file", convert},
        {"PK\5\6", 4, 0, "an empty zip archive", whole},
        {"\x80", 1, 0, "a Python pickle, but not one of torch.save", "save it with torch.save"},
    };
    if (size == 0)
        return hl_fail(HL_E_INPUT, path, whole, "is empty");
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++)
        if (size >= mistakes[i].at + mistakes[i].length &&
            memcmp(bytes + mistakes[i].at, mistakes[i].begin, mistakes[i].length) == 0)
            return hl_fail(HL_E_INPUT, path, mistakes[i].todo, "is %s", mistakes[i].is);
    size_t text = 0;
    while (text < size && text < 256 && strchr(" \t\r\n\xef\xbb\xbf", bytes[text]) != NULL &&
           bytes[text] != 0)
        text++;
    const char *rest = (const char *)bytes + text;
    if ((size - text >= 9 && strncasecmp(rest, "<!doctype", 9) == 0) ||
        (size - text >= 5 && strncasecmp(rest, "<html", 5) == 0) ||
        (size - text >= 5 && strncasecmp(rest, "<?xml", 5) == 0))
        return hl_fail(HL_E_INPUT, path, "download the file behind the page", "is a web page, not weights");
    char hex[3 * 8 + 1] = "";
    for (size_t i = 0; i < 8 && i < size; i++)
        snprintf(hex + strlen(hex), sizeof hex - strlen(hex), i == 0 ? "%02x" : " %02x", bytes[i]);
    return hl_fail(HL_E_INPUT, path, "give a file written by torch.save or safetensors",
                   "is of no known format, its first bytes are %s", hex);
}

static hl_status open_onnx(const char *path, hl_tensor_map **map)
{
    hl_onnx *model;
    HL_TRY(hl_onnx_read(path, &model));
    return hl_onnx_take_tensors(model, map);
}

hl_status hl_weights_open(const char *path, hl_tensor_map **map, hl_weights_format *format)
{
    hl_mapped_file file;
    *map = NULL;
    HL_TRY(hl_mapped_file_open(path, &file));
    hl_weights_format found = hl_weights_sniff(file.bytes, file.size);
    hl_status status = found == HL_WEIGHTS_UNKNOWN       ? explain(path, file.bytes, file.size)
                       : found == HL_WEIGHTS_ONNX        ? open_onnx(path, map)
                       : found == HL_WEIGHTS_SAFETENSORS ? hl_safetensors_read(path, map)
                                                         : hl_pytorch_parse(path, file.bytes, file.size, map);
    hl_mapped_file_close(&file);
    if (format != NULL)
        *format = found;
    return status;
}
