/* echo: the guest's end of outside probes. Promise: whatever arrives on port 7, by UDP or TCP, is returned at once and
 * unchanged. One process, at most MAX_STREAMS streams. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 7, MAX_STREAMS = 32, UDP = 0, LISTENER = 1, FIRST_STREAM = 2 };

static int open_socket(int type)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int one = 1, s = socket(AF_INET, type, 0);
	if (s < 0)
		return -1;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, (struct sockaddr *)&any, sizeof any) || (type == SOCK_STREAM && listen(s, MAX_STREAMS)))
		return -1;
	return s;
}

static void echo_datagram(int s)
{
	char data[65536];
	struct sockaddr_in from;
	socklen_t size = sizeof from;
	ssize_t n = recvfrom(s, data, sizeof data, 0, (struct sockaddr *)&from, &size);
	if (n >= 0)
		sendto(s, data, n, 0, (struct sockaddr *)&from, size);
}

/* Returns 0 when the stream has ended. A peer that does not read loses its stream rather than stopping the others. */
static int echo_bytes(int s)
{
	char data[65536];
	ssize_t n = recv(s, data, sizeof data, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	return n > 0 && send(s, data, n, MSG_DONTWAIT | MSG_NOSIGNAL) == n;
}

int main(void)
{
	struct pollfd on[FIRST_STREAM + MAX_STREAMS] = {
		[UDP] = { .fd = open_socket(SOCK_DGRAM), .events = POLLIN },
		[LISTENER] = { .fd = open_socket(SOCK_STREAM), .events = POLLIN },
	};
	int count = FIRST_STREAM, one = 1;
	if (on[UDP].fd < 0 || on[LISTENER].fd < 0) {
		perror("echo");
		return 1;
	}
	for (;;) {
		if (poll(on, count, -1) < 0)
			continue;
		if (on[UDP].revents)
			echo_datagram(on[UDP].fd);
		for (int i = count - 1; i >= FIRST_STREAM; i--) {
			if (on[i].revents && !echo_bytes(on[i].fd)) {
				close(on[i].fd);
				on[i] = on[--count];
			}
		}
		if (on[LISTENER].revents) {
			int s = accept(on[LISTENER].fd, NULL, NULL);
			if (s >= 0 && count < FIRST_STREAM + MAX_STREAMS) {
				setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				on[count++] = (struct pollfd){ .fd = s, .events = POLLIN };
			} else if (s >= 0) {
				close(s);
			}
		}
	}
}
