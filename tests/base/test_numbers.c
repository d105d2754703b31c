#include <criterion/criterion.h>
#include <string.h>

#include "base/numbers.h"

Test(numbers, a_list_read_back_has_the_same_floats)
{
    static const float values[4] = {0.1f, -3.4028235e38f, 1.17549435e-38f, 0.485f};
    for (int64_t count = 1; count <= 4; count++) {
        char text[HL_NUMBERS_SIZE];
        float back[4];
        hl_numbers_text(values, count, ',', text, sizeof text);
        cr_assert_eq(hl_numbers_parse(text, ',', 4, back), count, "%s", text);
        cr_expect_arr_eq(back, values, (size_t)count * sizeof *back, "%s", text);
    }
}

Test(numbers, anything_else_is_no_list)
{
    static const char *const bad[] = {"",          ",",   "1,",  ",1",   "1,,2", "1;2",
                                      "1,2,3,4,5", "nan", "inf", "1e99", "1,x"};
    float values[4];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(hl_numbers_parse(bad[i], ',', 4, values), 0, "%s", bad[i]);
    cr_expect_eq(hl_numbers_parse("1 2 3", ' ', 4, values), 3);
    cr_expect_eq(hl_numbers_parse("1 2 3", ' ', 2, values), 0);
}

Test(numbers, what_does_not_fit_is_cut_off)
{
    static const float values[2] = {0.5f, 0.25f};
    char text[8];
    memset(text, '?', sizeof text);
    cr_expect_str_eq(hl_numbers_text(values, 2, ' ', text, 6), "0.5 0");
    cr_expect_eq(text[6], '?');
}
