#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"

Test(error, message_is_what_why_and_what_to_do)
{
    cr_assert_eq(hl_fail(HL_E_INPUT, "a.png", "convert it", "has %d channels", 7), HL_E_INPUT);
    cr_assert_str_eq(hl_last_error(), "a.png: has 7 channels (convert it)");
}

Test(error, a_message_may_quote_the_previous_one)
{
    hl_fail(HL_E_IO, "inner", NULL, "broke");
    hl_fail(HL_E_IO, "outer", NULL, "%s", hl_last_error());
    cr_assert_str_eq(hl_last_error(), "outer: inner: broke");
}

Test(error, control_characters_cannot_break_the_line)
{
    hl_fail(HL_E_INPUT, "a\nb", NULL, "\x1b[31m");
    cr_assert_str_eq(hl_last_error(), "a?b: ?[31m");
}

Test(error, long_messages_are_cut_not_overrun)
{
    static char name[10000];
    memset(name, 'x', sizeof name - 1);
    hl_fail(HL_E_INPUT, name, name, "%s", name);
    cr_assert_eq(strlen(hl_last_error()), 2047);
}

Test(error, codes_map_to_the_documented_exit_statuses)
{
    cr_assert_eq(hl_status_exit_code(HL_OK), 0);
    cr_assert_eq(hl_status_exit_code(HL_E_ARG), 2);
    cr_assert_eq(hl_status_exit_code(HL_E_INPUT), 2);
    cr_assert_eq(hl_status_exit_code(HL_E_NOMEM), 1);
}

Test(error, nearest_names_come_in_order_of_distance)
{
    static const char *const names[] = {"resnet18", "mobilenet_v2", "resnet50", "resnet34"};
    char text[128];
    hl_nearest_names("resnet5", names, 4, text, sizeof text);
    cr_assert(strncmp(text, "resnet50", 8) == 0, "%s", text);
    hl_nearest_names("mobilenet", names, 4, text, sizeof text);
    cr_assert_str_eq(text, "mobilenet_v2");
    hl_nearest_names("zzzzzzzzzzzz", names, 4, text, sizeof text);
    cr_assert_str_eq(text, "");
}
