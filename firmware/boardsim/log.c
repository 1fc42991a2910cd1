/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim.h"

/* About 10,000 events: an hour of vends between two questions of the driver. */
enum { LOG_LEN = 1 << 20 };

static char log_buf[LOG_LEN];
static size_t log_n;
static unsigned log_lost;

static void log_write(const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(STDOUT_FILENO, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			exit(0);	/* our owner is gone */
		p += w;
		n -= (size_t)w;
	}
}

static void log_line(const char *fmt, va_list ap)
{
	char line[16384];	/* more than 4096 bytes of the line in hex */
	int n, t;

	t = snprintf(line, sizeof line, "{\"t\":%llu,", (unsigned long long)(chip_now() / CYC_US));
	n = t + vsnprintf(line + t, sizeof line - (size_t)t - 3, fmt, ap);
	if ((size_t)n > sizeof line - 3)
		log_fatal("an event of %d bytes is too long", n);
	memcpy(line + n, "}\n", 2);
	n += 2;
	if (log_n + (size_t)n > LOG_LEN) {
		log_lost++;
		return;
	}
	memcpy(log_buf + log_n, line, (size_t)n);
	log_n += (size_t)n;
}

void log_event(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(fmt, ap);
	va_end(ap);
}

void log_flush(void)
{
	log_write(log_buf, log_n);
	log_n = 0;
	if (log_lost > 0) {
		unsigned n = log_lost;
		log_lost = 0;
		log_event("\"ev\":\"lost\",\"n\":%u", n);
		log_write(log_buf, log_n);
		log_n = 0;
	}
}

void log_fatal(const char *fmt, ...)
{
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	for (char *c = why; *c; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '\'';
	log_write(log_buf, log_n);
	log_n = 0;
	fprintf(stderr, "boardsim: %s\n", why);
	printf("{\"t\":0,\"ev\":\"fatal\",\"why\":\"%s\"}\n", why);
	fflush(stdout);
	exit(2);
}
