/* Methods on small backbones with weights from the formula, for tests that loop over both. */
#ifndef HL_TESTS_METHODS_H
#define HL_TESTS_METHODS_H

#include "train/model.h"

enum { METHODS_BATCH = 4, METHODS_SIZE = 32, METHODS_CLASSES = 5, METHODS_MOST_STEPS = 2 };

/* A network of the zoo with a share of its channels. */
typedef struct method_backbone {
    const char *model;
    double width;
} method_backbone;

/* A method as it is tested. */
typedef struct method_row {
    const char *golden; /* tests/fixtures/methods/GOLDEN.txt */
    const char *text;   /* what --method is given */
    const char *only;   /* the one backbone where it differs from another row, or NULL: all */
    hl_exec exec;
    hl_norm_mode norm;
    /* By definition the gradient is another than that of the loss: a straight-through estimate, a factor
     * taken for a constant, a penalty. */
    bool own_gradient;
    bool any_sign; /* signs and order of what is trained are left open */
    /* Backbones on which layers of the method stay when it is merged, since something nonlinear or a padding
     * follows them: "all", names with spaces between them, or NULL: none. */
    const char *stays_on;
} method_row;

extern const method_row method_rows[];
extern const method_backbone method_backbones[];
enum { METHOD_BACKBONES = 5 };
int method_row_count(void);

bool method_stays(const method_row *row, const method_backbone *backbone);

/* The backbone with the formula's weights and the method applied, not placed yet; SiLU for ReLU, averages for
 * maxima, no dropout. What the method adds has values in the range that scripts/method_reference.py draws it
 * from. */
hl_model *method_model(const method_backbone *backbone, const method_row *row);
bool method_stays(const method_row *row, const method_backbone *backbone);

/* The backbone without a method, its parameters zero. */
hl_graph *method_plain_graph(const method_backbone *backbone);

/* What the golden files sum tensors up by: what their names end in; from ".lora_" or ".adapter" on, where
 * that is in them; "head" for all of the head, "scale" for weights of norms. */
const char *method_kind(const hl_param *param);

/* The formula's images and labels n * 3 % classes. */
void method_fill_batch(hl_program *program);
/* Evaluates the model on them; it is placed if it was not. */
void method_logits(hl_model *model, hl_exec exec, float logits[METHODS_BATCH * METHODS_CLASSES]);

#endif
