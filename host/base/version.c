#include <heirloom/heirloom.h>

const char *hl_version(void)
{
    return HL_VERSION;
}
