/* disk-writer DEVICE BLOCKS_PER_SECOND: writes a disk in a known order, and is the guest's agent as far as disks go.
 *
 * Promise: blocks of 64 KiB are written one after the other, round and round, each made of one number that counts up,
 * and each is on the disk before the next one is begun. So at any moment the disk holds the numbers up to some block, and
 * behind it those of the round before: a copy that is not of one moment shows.
 *
 * It answers libvirt's greeting, guest-fsfreeze-freeze, -thaw and -status on the port of the guest's agent. Nothing is
 * written while it is frozen. guest-shutdown switches the guest off, between two blocks. guest-test-close makes it mute
 * for MUTE_MS, and then closes the port: from then on there is no agent.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 64 << 10, WORDS = BLOCK / 8, MUTE_MS = 3000 };

static int frozen;

/* The port has no name in /dev without udev. */
static int open_port(void)
{
	glob_t found;
	int port = -1;
	if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &found))
		return -1;
	for (size_t i = 0; i < found.gl_pathc && port < 0; i++) {
		char name[64] = "", device[64], *end, *start;
		FILE *f = fopen(found.gl_pathv[i], "r");
		if (!f || !fgets(name, sizeof name, f) || strncmp(name, "org.qemu.guest_agent.0", 22))
			name[0] = 0;
		if (f)
			fclose(f);
		if (!name[0])
			continue;
		end = strrchr(found.gl_pathv[i], '/');
		*end = 0;
		start = strrchr(found.gl_pathv[i], '/') + 1;
		snprintf(device, sizeof device, "/dev/%.50s", start);
		port = open(device, O_RDWR | O_NONBLOCK);
	}
	globfree(&found);
	return port;
}

static void answer(int port, const char *request)
{
	char said[96];
	const char *id = strstr(request, "\"id\":");
	const char *mark = "";
	/* libvirt asks the agent before it presses the power button, and waits for no answer. */
	if (strstr(request, "guest-shutdown"))
		reboot(RB_POWER_OFF);
	if (strstr(request, "guest-sync") && id) {
		if (strstr(request, "guest-sync-delimited"))
			mark = "\xff";
		snprintf(said, sizeof said, "%s{\"return\": %llu}\n", mark, strtoull(id + 5, NULL, 10));
	} else if (strstr(request, "guest-fsfreeze-freeze")) {
		frozen = 1;
		snprintf(said, sizeof said, "{\"return\": 1}\n");
	} else if (strstr(request, "guest-fsfreeze-thaw")) {
		snprintf(said, sizeof said, "{\"return\": %d}\n", frozen);
		frozen = 0;
	} else if (strstr(request, "guest-fsfreeze-status")) {
		snprintf(said, sizeof said, "{\"return\": \"%s\"}\n", frozen ? "frozen" : "thawed");
	} else {
		snprintf(said, sizeof said, "{\"return\": {}}\n");
	}
	if (write(port, said, strlen(said)) < 0)
		perror("disk-writer: port");
}

/* Returns 0 when it is to fall silent. */
static int listen_to(int port, int mute)
{
	static char line[4096];
	static size_t length;
	ssize_t n = read(port, line + length, sizeof line - 1 - length);
	char *end;
	int goes_on = 1;
	if (n <= 0)
		return 1;
	length += n;
	line[length] = 0;
	while ((end = strchr(line, '\n'))) {
		*end = 0;
		if (!mute)
			answer(port, line);
		if (strstr(line, "guest-test-close"))
			goes_on = 0;
		length -= end + 1 - line;
		memmove(line, end + 1, length + 1);
	}
	if (length == sizeof line - 1)
		length = 0;
	return goes_on;
}

static long long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	static uint64_t block[WORDS] __attribute__((aligned(4096)));
	uint64_t size = 0, number = 0;
	long long closes = 0, pause = argc > 2 && atoi(argv[2]) > 0 ? 1000 / atoi(argv[2]) : 10, next = now_ms();
	int port = open_port();
	int disk = argc > 1 ? open(argv[1], O_WRONLY | O_DIRECT) : -1;
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size) || size < BLOCK) {
		perror("disk-writer: disk");
		return 1;
	}
	for (;;) {
		struct pollfd heard = { .fd = port, .events = POLLIN };
		long long left = frozen ? 1000 : next - now_ms();
		/* A port that nobody has opened at the other end is always ready to say so. */
		if (poll(&heard, 1, left > 0 ? left : 0) > 0 && heard.revents & POLLHUP)
			usleep(10000);
		if (heard.revents & POLLIN && !listen_to(port, closes > 0) && !closes)
			closes = now_ms() + MUTE_MS;
		if (port >= 0 && closes && now_ms() > closes) {
			close(port);
			port = -1;
		}
		if (frozen || now_ms() < next)
			continue;
		next = now_ms() + pause;
		for (size_t i = 0; i < WORDS; i++)
			block[i] = number + 1;
		if (pwrite(disk, block, BLOCK, number % (size / BLOCK) * BLOCK) != BLOCK || fdatasync(disk)) {
			perror("disk-writer: write");
			return 1;
		}
		number++;
	}
}
