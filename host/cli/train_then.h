/* Two runs, one after the other: train --then. */
#ifndef HL_CLI_TRAIN_THEN_H
#define HL_CLI_TRAIN_THEN_H

#include "cli/common.h"

/* One training run; *interrupted: it was stopped and can be resumed. Prints what came out where that is not
 * asked for as JSON. */
typedef hl_status cli_run(cli_values *values, bool *interrupted);

/* The run that the values describe but for --then in OUT/1-METHOD, --then's in OUT/2-METHOD, with --compare
 * the control in OUT/3-METHOD; a table and OUT/summary.json in the end, unless
 * a run was interrupted. */
hl_status cli_train_then(cli_values *values, cli_run *run, bool *interrupted);

#endif
