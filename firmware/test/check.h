/* What a test says when it does not agree. A failed check is counted and printed,
 * and the test goes on. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>

/* check_equal prints what differs; true if nothing does. */
bool check_equal(const char *file, int line, const char *what, long long got, long long want);

/* check_about allows want to be missed by slack either way. */
bool check_about(const char *file, int line, const char *what, long long got, long long want, long long slack);

#define EQ(got, want) check_equal(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
#define ABOUT(got, want, slack) check_about(__FILE__, __LINE__, #got, (long long)(got), (long long)(want), slack)
#define CHECK(x) check_equal(__FILE__, __LINE__, #x, !!(x), 1)

/* check_in names the case of a table that the checks after it are about. */
void check_in(const char *name);

/* The tests, one function for each part of the rules. */
void test_link(void);
void test_questions(void);
void test_journal(void);
void test_keep(void);
void test_vend(void);
void test_hold(void);
void test_cabinet(void);

#endif
