#include "cli/options.h"

#define MODEL_COMMANDS (CLI_TRAIN | CLI_EVAL | CLI_PREDICT | CLI_INSPECT | CLI_BENCH)
#define RUN_COMMANDS   (CLI_EVAL | CLI_PREDICT | CLI_EXPORT | CLI_GATES)
#define COMPUTE        (CLI_TRAIN | CLI_EVAL | CLI_PREDICT | CLI_BENCH | CLI_GATES)
#define SIZE           1, 4096

/* clang-format off */
const cli_option cli_option_table[] = {
    /* what to compute with */
    {"model", CLI_TEXT, "NAME", NULL, "required", 0, 0, MODEL_COMMANDS, false, "a model of the zoo (`heirloom models`), or an .onnx file"},
    {"weights", CLI_TEXT, "FILE", NULL, "random values", 0, 0, MODEL_COMMANDS | CLI_EXPORT | CLI_GATES, false,
     "pretrained weights: .pth, .pt (zip or legacy) or .safetensors; with --run: where its base weights are now"},
    {"run", CLI_TEXT, "RUN", NULL, NULL, 0, 0, RUN_COMMANDS, false, "a run folder: its best result, instead of --model and --weights; eval and predict take several, of one backbone, which is loaded once"},
    {"num-classes", CLI_INT, "N", NULL, "from the data or the weights", 1, 1 << 20, MODEL_COMMANDS, false, "outputs of the classifier head"},
    {"image-size", CLI_INT, "N", NULL, "the model's", SIZE, MODEL_COMMANDS, false, "side of the square that the network sees"},
    {"resize", CLI_INT, "N", NULL, "in the model's ratio to --image-size", 1, 16384, MODEL_COMMANDS, false, "length of the shorter side before the crop"},
    {"interpolation", CLI_CHOICE, "bilinear|bicubic", NULL, "the model's", 0, 0, MODEL_COMMANDS, false, "how images are resized"},
    {"in-channels", CLI_CHOICE, "1|3|4", NULL, "the ONNX file's, else 3", 0, 0, MODEL_COMMANDS, false,
     "of images: grey, RGB or RGBA; RGB weights are adapted in the first convolution: summed for one channel; repeated, times 3/4, for four"},
    {"mean", CLI_NUMBERS, "R,G,B", NULL, "the model's", 0, 0, MODEL_COMMANDS, false,
     "subtracted from channels scaled to 0..1; a number for each, or one for all; by default of grey the mean of the model's three, of alpha 0.5"},
    {"std", CLI_NUMBERS, "R,G,B", NULL, "the model's", 0, 0, MODEL_COMMANDS, false, "channels are divided by it then; as for --mean"},
    {"channel-order", CLI_CHOICE, "rgb|bgr", "rgb", NULL, 0, 0, MODEL_COMMANDS, false, "of the network in an ONNX file; bgr: its first layer's channels are reversed as it is read, and --mean and --std stay R,G,B"},

    /* what is trained */
    {"method", CLI_TEXT, "NAME[:KEY=VALUE,...]", "projection", NULL, 0, 0, CLI_TRAIN | CLI_INSPECT | CLI_BENCH, false,
     "what is trained (`heirloom methods`)"},
    {"norm", CLI_CHOICE, "frozen|affine|update|full", NULL, "the method's", 0, 0, CLI_TRAIN | CLI_INSPECT | CLI_BENCH, false,
     "norms: running statistics and frozen scale and shift (frozen) or trained ones (affine); batch statistics with frozen (update) or trained (full) ones"},
    {"drop-path", CLI_REAL, "P", NULL, "the model's", 0, 0.99, CLI_TRAIN | CLI_BENCH, false,
     "stochastic depth: rate at which the last blocks' branches are dropped, image by image; blocks before in proportion to their depth; 0: never"},
    {"winograd", CLI_FLAG, NULL, NULL, NULL, 0, 0, COMPUTE, false, "CPU, fp32: 3x3 convolutions of stride 1 by Winograd's F(4x4,3x3), about twice as fast; rounding errors are two to five times as large"},
    {"projection-exec", CLI_CHOICE, "auto|fold|cache", "auto", NULL, 0, 0, COMPUTE, false,
     "projected layers: gates into the weights (fold), or recombination of kept sub-function outputs (cache)"},

    /* data */
    {"data", CLI_TEXT, "PATH", NULL, "required", 0, 0, CLI_TRAIN | CLI_EVAL | CLI_GATES, false,
     "a folder with train/ and val/ or test/ (each CLASS/image), a folder of CLASS/image, or a CSV file with the columns path,label,split"},
    {"split", CLI_CHOICE, "train|val|test", "val", NULL, 0, 0, CLI_EVAL | CLI_GATES, false, "which part of the data"},
    {"val-fraction", CLI_REAL, "F", "0", NULL, 0, 0.9, CLI_TRAIN, false, "part of the training images that becomes the validation split where there is none"},
    {"augment", CLI_CHOICE, "none|flip|standard", "standard", NULL, 0, 0, CLI_TRAIN, false,
     "training images: as they are; flipped at random; random resized crop and flip"},
    {"no-shuffle", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_TRAIN, false, "keep the images in their order"},
    {"workers", CLI_INT, "N", "2", NULL, 1, 256, CLI_TRAIN | CLI_EVAL | CLI_GATES, false, "threads that decode images"},
    {"bad-images", CLI_CHOICE, "fail|skip", "fail", NULL, 0, 0, CLI_TRAIN, false, "images that cannot be decoded: stop, or count and leave out"},
    {"class-weights", CLI_CHOICE, "none", "none", NULL, 0, 0, CLI_TRAIN, false, "weight of each class in the loss"},
    {"mixup", CLI_REAL, "A", "0", NULL, 0, 100, CLI_TRAIN, false, "blend images of a batch, shares ~ Beta(A, A); 0: no"},
    {"cutmix", CLI_REAL, "A", "0", NULL, 0, 100, CLI_TRAIN, false, "paste boxes between images of a batch, shares ~ Beta(A, A); 0: no; with --mixup: one or the other, batch by batch"},

    /* training */
    {"out", CLI_TEXT, "PATH", NULL, "required", 0, 0, CLI_TRAIN | CLI_EXPORT | CLI_EMBED | CLI_GATES, false, "the run folder to make; export, embed: the file to write; gates: the file for the network that --prune leaves"},
    {"epochs", CLI_INT, "N", "10", NULL, 1, 1000000, CLI_TRAIN, false, "passes over the training images"},
    {"max-steps", CLI_INT, "N", "0", NULL, 0, 1e15, CLI_TRAIN, false, "stop after so many optimizer steps; 0: no limit"},
    {"batch-size", CLI_INT, "N", "32", NULL, 1, 65536, COMPUTE, false, "images at a time"},
    {"accumulate", CLI_INT, "N", "1", NULL, 1, 65536, CLI_TRAIN, false, "batches whose gradients make one optimizer step"},
    {"optimizer", CLI_CHOICE, "sgd|adam|adamw|lars", "adamw", NULL, 0, 0, CLI_TRAIN, false, "SGD is with Nesterov momentum"},
    {"lr", CLI_REAL, "X", NULL, "the method's", 0, 1000, CLI_TRAIN, false, "learning rate"},
    {"head-lr", CLI_REAL, "X", NULL, "--lr", 1e-12, 1000, CLI_TRAIN, false, "learning rate of the classifier head"},
    {"layer-decay", CLI_REAL, "D", "1", NULL, 1e-6, 1, CLI_TRAIN, false,
     "the learning rate of a block is D to the power of its distance from the head, where the last block's is 1; 1: the same everywhere"},
    {"momentum", CLI_REAL, "X", "0.9", NULL, 0, 0.9999, CLI_TRAIN, false, "of SGD and LARS"},
    {"weight-decay", CLI_REAL, "X", NULL, "1e-4; l2sp: 0", 0, 10, CLI_TRAIN, false, "gates decay towards one, everything else towards zero"},
    {"clip-grad", CLI_REAL, "X", "0", NULL, 0, 1e9, CLI_TRAIN, false, "largest norm of all gradients together; 0: no limit"},
    {"schedule", CLI_CHOICE, "constant|step|cosine", "cosine", NULL, 0, 0, CLI_TRAIN, false, "of the learning rate"},
    {"warmup-epochs", CLI_REAL, "X", NULL, "5 % of all steps", 0, 100000, CLI_TRAIN, false, "in which the learning rate rises linearly"},
    {"label-smoothing", CLI_REAL, "X", "0", NULL, 0, 0.99, CLI_TRAIN, false, "share of the label spread over all classes"},
    {"then", CLI_TEXT, "METHOD[:KEY=VALUE,...]", NULL, "nothing", 0, 0, CLI_TRAIN, false,
     "a second run that starts from this one's merged result; KEYs are the method's and training options (epochs, lr, norm, ...); runs go to OUT/1-METHOD and OUT/2-METHOD"},
    {"compare", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_TRAIN, false,
     "with --then: also the second run's method from where the first began, for as many epochs as both together, in OUT/3-METHOD"},
    {"init-head", CLI_CHOICE, "normal|zeros", "normal", NULL, 0, 0, CLI_TRAIN, false, "a fresh head's weights"},
    {"init-from", CLI_TEXT, "RUN", NULL, "nothing", 0, 0, CLI_TRAIN, false, "start from another run's merged result"},
    {"ema", CLI_REAL, "DECAY", NULL, NULL, 0, 1, CLI_TRAIN, true, ""},
    {"tensorboard", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_TRAIN, true, ""},
    {"early-stop", CLI_INT, "N", "0", NULL, 0, 1000000, CLI_TRAIN, false, "epochs without improvement after which training ends; 0: never"},
    {"monitor", CLI_CHOICE, "val_acc1|val_loss|val_acc_class|val_auroc", "val_acc1", NULL, 0, 0, CLI_TRAIN, false, "what the best epoch is best in"},
    {"feature-cache", CLI_TEXT, "DIR", NULL, NULL, 0, 0, CLI_TRAIN, false, "files for what --feature-limit speaks of, shared by runs with the same weights, images and preprocessing; without it, it stays in memory"},
    {"feature-limit", CLI_REAL, "GIB", "4", NULL, 0, 1e6, CLI_TRAIN, false, "with --augment none, what the layers before the first trained one make of the images is computed once and kept, where that takes no more than this; 0: never"},
    {"checkpoint-every", CLI_INT, "STEPS", "0", NULL, 0, 1e15, CLI_TRAIN, false, "besides the checkpoint after every epoch; 0: none"},
    {"log-every", CLI_INT, "STEPS", "20", NULL, 1, 1e15, CLI_TRAIN, false, "steps between lines of log.jsonl, which is when a device is read back"},
    {"resume", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_TRAIN, false, "continue the run in --out from its last checkpoint, bit for bit"},
    {"config", CLI_TEXT, "FILE", NULL, "none", 0, 0, CLI_TRAIN, false, "options from a file such as a run's config.yaml; the command line wins"},

    /* bench, predict, export */
    {"steps", CLI_INT, "N", "20", NULL, 1, 1000000, CLI_BENCH, false, "steps that are timed"},
    {"mode", CLI_CHOICE, "train|infer", "train", NULL, 0, 0, CLI_BENCH, false, "whole training steps, or the forward pass alone"},
    {"features", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_BENCH, false, "the step of later epochs where features are kept (train --feature-limit): the layers in front of the first trained one do not run"},
    {"floor", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_BENCH, false, "also the time of the step's convolutions alone, and how many times that the whole step takes"},
    {"profile", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_BENCH, false, "also the time of every operation of the step"},
    {"trace", CLI_TEXT, "FILE", NULL, "not written", 0, 0, CLI_BENCH, false, "the profile as a Chrome trace (chrome://tracing, ui.perfetto.dev)"},
    {"top", CLI_INT, "N", "5", NULL, 1, 1 << 20, CLI_PREDICT | CLI_GATES, false, "classes to show for each image; gates: those farthest from one"},
    {"logits", CLI_TEXT, "FILE", NULL, "not written", 0, 0, CLI_PREDICT, false, "safetensors file for \"logits\", f32 [images, classes], in the order of the arguments"},
    {"skip-bad", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_PREDICT, false, "report unreadable images and go on"},
    {"confusion", CLI_TEXT, "FILE", NULL, "confusion.csv in the run folder with --run, else not written", 0, 0, CLI_EVAL, false, "CSV file for the confusion matrix"},
    {"keys", CLI_CHOICE, "torchvision|timm", NULL, "the model's", 0, 0, CLI_EXPORT, false, "whose names the tensors get"},

    /* embed */
    {"act", CLI_TEXT, "NAME[,NAME...]", NULL, "relu", 0, 0, CLI_EMBED, false,
     "of a state dict: the activation between its layers, or one behind each: none, relu, relu6, sigmoid, hardsigmoid, silu, hardswish, gelu, tanh"},
    {"layers", CLI_TEXT, "NAME[,NAME...]", NULL, "the file's order; by number in a safetensors file", 0, 0, CLI_EMBED, false, "of a state dict: its layers in the order they run"},
    {"spatial", CLI_TEXT, "KxK", NULL, "1x1", 0, 0, CLI_EMBED, false, "the features are a patch of K rows and columns, flattened channels first: the first layer becomes a KxK convolution, for images of any size"},
    {"verify", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_EMBED, false, "run both networks on random inputs and compare outputs and gradients; exit status 1 where they differ"},
    {"tolerance", CLI_REAL, "X", NULL, "16 x 2^-24 x the sum of sqrt(inputs) over the layers", 1e-12, 1, CLI_EMBED, false, "of --verify, as a share of the largest value"},

    /* gates */
    {"prune", CLI_TEXT, "T[,T...]", NULL, "nothing is pruned", 0, 0, CLI_GATES, false, "contributions with |gate| <= T are taken out: how many that are, with --data what is left of the accuracy, with --out (and one T) the network itself"},
    {"with", CLI_TEXT, "RUN", NULL, "none", 0, 0, CLI_GATES, false, "another run of the same network: how alike the gates are"},
    {"png", CLI_TEXT, "FILE", NULL, "not drawn", 0, 0, CLI_GATES, false, "a picture of the gates: how they are distributed in every layer, and the accuracy that pruning leaves (needs gnuplot)"},
    {"csv", CLI_TEXT, "FILE", NULL, "not written", 0, 0, CLI_GATES, false, "the table by layer, or with --prune that by threshold"},

    /* everywhere */
    {"device", CLI_TEXT, "cpu|cuda|cuda:N", NULL, "cuda where one is usable, else cpu", 0, 0, COMPUTE | CLI_EXPORT | CLI_EMBED, false, "where to compute"},
    {"precision", CLI_CHOICE, "fp32|tf32|bf16|fp16", NULL, "train and bench: bf16 where the device has it, else fp32; eval and predict: fp32", 0, 0,
     COMPUTE, false, "of activations and weights; parameters and their gradients are fp32; tf32 and fp16 on CUDA only"},
    {"threads", CLI_INT, "N", NULL, "all cores", 1, 4096, COMPUTE | CLI_EMBED, false, "threads that compute"},
    {"seed", CLI_INT, "N", "0", NULL, 0, 9007199254740992.0, CLI_TRAIN | CLI_BENCH | CLI_INSPECT | CLI_EMBED, false, "of everything random"},
    {"deterministic", CLI_FLAG, NULL, NULL, NULL, 0, 0, COMPUTE, false, "repeatable bit for bit; on the CPU it always is, with the same number of threads"},
    {"autotune", CLI_FLAG, NULL, NULL, NULL, 0, 0, COMPUTE, false, "CUDA: choose implementations by timing them once, and remember the choice"},
    {"quiet", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_ALL, false, "no messages but warnings and errors"},
    {"json", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_ALL, false, "the result as one JSON object on stdout"},
    {"help", CLI_FLAG, NULL, NULL, NULL, 0, 0, CLI_ALL, false, "this text"},
};
/* clang-format on */

const int cli_option_count = sizeof cli_option_table / sizeof *cli_option_table;

_Static_assert(sizeof cli_option_table / sizeof *cli_option_table <= CLI_MAX_OPTIONS,
               "CLI_MAX_OPTIONS is too small");
