/* dirtier MIB PAGES_PER_SECOND: writes the guest's memory at a known rate, and can prove that no write was lost.
 *
 * Promise: PAGES_PER_SECOND distinct 4 KiB pages of a MIB-sized buffer are written each second, round and round, on
 * average over any few ticks; `late` counts the ticks whose share was given up because the guest could not keep pace.
 * Every word of the buffer has one value it must hold at any time, so `check` sees any lost or misplaced page.
 *
 * UDP port 7007, one datagram each way:
 *   get          -> "MIB PAGES_PER_SECOND pages_written late"
 *   set MIB PPS  -> the same, after the change (another MIB starts a fresh buffer, MIB 0 is
 *                   answered when there is no memory for it)
 *   check        -> "check bad=N of=M", N of the M pages of the buffer differ from what was written to them
 */
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <time.h>

enum { SPARE_MIB = 6, PORT = 7007, PAGE = 4096, WORDS = PAGE / 8, MARK = 8, TICK_MS = 10, MAX_TICKS_OWED = 20 };

static struct {
	uint64_t (*page)[WORDS];
	size_t pages;
	size_t next;		/* page to be written next */
	uint64_t written;	/* since the buffer was made; the mark of the last page written */
} buffer;
static unsigned long mib, pages_per_second, late;

/* What never changes in a page: different everywhere, and of no use to a compressor or a zero-page test. */
static uint64_t filling(size_t page, size_t word)
{
	uint64_t x = page * WORDS + word + 1;
	x *= 0x9e3779b97f4a7c15u;
	x ^= x >> 29;
	return x * 0xbf58476d1ce4e5b9u;
}

/* The kernel would grant any size and kill us at the first touch of what it does not have. */
static int fits(unsigned long wanted)
{
	struct sysinfo info;
	return !sysinfo(&info) && wanted + SPARE_MIB <= ((uint64_t)info.freeram * info.mem_unit >> 20);
}

static int make_buffer(unsigned long wanted)
{
	if (buffer.page)
		munmap(buffer.page, buffer.pages * PAGE);
	memset(&buffer, 0, sizeof buffer);
	mib = 0;
	if (!wanted)
		return 0;
	if (!fits(wanted))
		return -1;
	void *memory = mmap(NULL, wanted << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -1;
	buffer.page = memory;
	buffer.pages = (wanted << 20) / PAGE;
	for (size_t p = 0; p < buffer.pages; p++)
		for (size_t w = 0; w < WORDS; w++)
			buffer.page[p][w] = filling(p, w);
	mib = wanted;
	return 0;
}

static void write_pages(unsigned long count)
{
	while (count--) {
		buffer.page[buffer.next][MARK] = ++buffer.written;
		if (++buffer.next == buffer.pages)
			buffer.next = 0;
	}
}

static size_t bad_pages(void)
{
	size_t bad = 0;
	for (size_t p = 0; p < buffer.pages; p++) {
		/* The page before `next` carries the last mark, the one before that the mark before, and so round. */
		size_t age = (buffer.next + buffer.pages - 1 - p) % buffer.pages;
		uint64_t mark = age < buffer.written ? buffer.written - age : filling(p, MARK);
		int wrong = buffer.page[p][MARK] != mark;
		for (size_t w = 0; w < WORDS; w++)
			wrong |= w != MARK && buffer.page[p][w] != filling(p, w);
		bad += wrong;
	}
	return bad;
}

static void answer(int s)
{
	char text[128];
	struct sockaddr_in from;
	socklen_t from_size = sizeof from;
	ssize_t n = recvfrom(s, text, sizeof text - 1, 0, (struct sockaddr *)&from, &from_size);
	if (n < 0)
		return;
	text[n] = 0;
	unsigned long new_mib, new_rate;
	if (sscanf(text, "set %lu %lu", &new_mib, &new_rate) == 2) {
		if (new_mib != mib && make_buffer(new_mib))
			new_rate = 0;
		pages_per_second = new_rate;
		late = 0;
	}
	if (!strncmp(text, "check", 5))
		n = snprintf(text, sizeof text, "check bad=%zu of=%zu\n", bad_pages(), buffer.pages);
	else
		n = snprintf(text, sizeof text, "%lu %lu %llu %lu\n", mib, pages_per_second,
			     (unsigned long long)buffer.written, late);
	sendto(s, text, n, 0, (struct sockaddr *)&from, from_size);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (s < 0 || bind(s, (struct sockaddr *)&any, sizeof any)) {
		perror("dirtier: bind");
		return 1;
	}
	if (argc != 3) {
		fprintf(stderr, "usage: dirtier MIB PAGES_PER_SECOND\n");
		return 1;
	}
	pages_per_second = strtoul(argv[2], NULL, 10);
	if (make_buffer(strtoul(argv[1], NULL, 10)))
		fprintf(stderr, "dirtier: there is no memory for %s MiB\n", argv[1]);
	double last = now(), owed = 0;
	for (;;) {
		struct pollfd asked = { .fd = s, .events = POLLIN };
		if (poll(&asked, 1, TICK_MS) > 0) {
			answer(s);
			continue;
		}
		double t = now(), most = pages_per_second * (MAX_TICKS_OWED * TICK_MS / 1e3);
		owed += (t - last) * pages_per_second;
		last = t;
		if (owed > most) {
			owed = most;
			late++;
		}
		unsigned long share = owed;
		owed -= share;
		if (buffer.pages)
			write_pages(share);
	}
}
