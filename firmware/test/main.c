/* The tests of the core, in one program: `out/unit`, or `out/unit vend` for one part. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENOUGH = 60 };	/* failures: after so many the rest says nothing new */

static unsigned passed, failed;
static const char *part, *in;

void check_in(const char *name)
{
	in = name;
}

static bool say(bool good, const char *file, int line, const char *what, long long got, long long want)
{
	if (good) {
		passed++;
		return true;
	}
	failed++;
	printf("%s:%d: %s%s%s: %s is %lld, want %lld\n", file, line, part, in ? ", " : "", in ? in : "", what, got, want);
	if (failed == ENOUGH) {
		printf("%u checks failed, and no more are tried\n", failed);
		exit(1);
	}
	return false;
}

bool check_equal(const char *file, int line, const char *what, long long got, long long want)
{
	return say(got == want, file, line, what, got, want);
}

bool check_about(const char *file, int line, const char *what, long long got, long long want, long long slack)
{
	return say(got >= want - slack && got <= want + slack, file, line, what, got, want);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} parts[] = {
		{ "link", test_link }, { "questions", test_questions }, { "journal", test_journal }, { "keep", test_keep },
		{ "vend", test_vend }, { "hold", test_hold }, { "cabinet", test_cabinet },
	};

	for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
		part = parts[i].name;
		in = 0;
		if (argc < 2 || !strcmp(argv[1], part))
			parts[i].run();
	}
	printf("%u checks, %u failed\n", passed + failed, failed);
	return failed != 0;
}
