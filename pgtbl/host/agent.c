/* The program whose address space is looked at: it does what it is told over a socket, and nothing of its own.
 *
 * A request is one message of nine words: what, and eight arguments; an open file may ride along (SCM_RIGHTS).
 * The answer is one message of eight words. Everything that it needs lives in static memory that was written once
 * before the first request, so that its own pages take no fault, and no page table, while an experiment runs.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint64_t word;

enum request {
	WHERE = 1, /* -> address of the scratch area, its size, pid */
	CALL,      /* number, six arguments -> result (as the kernel returns it), minor faults */
	TOUCH,     /* kind, address, pages, stride in bytes, value, step -> ok, segv, bus, first, minor faults, sum */
	POKE,      /* offset, count, up to six words into the scratch area */
	PEEK,      /* offset -> eight words of the scratch area */
	FILL,      /* offset, count, value: words into the scratch area */
	KEEP,      /* takes the file that rides along -> its number */
	FORK,      /* the socket that rides along becomes the child's -> pid */
	RUNS,      /* first byte, count, number of the first run wanted -> up to three runs (start, length) of bytes with bit 0 */
	LEAVE,
};

#define SCRATCH (1 << 20)
#define STACK_KEPT (96 * 1024)

static unsigned char scratch[SCRATCH] __attribute__((aligned(4096)));
static unsigned char signal_stack[64 * 1024] __attribute__((aligned(4096)));
static union {
	struct cmsghdr header;
	unsigned char bytes[CMSG_SPACE(sizeof(int))];
} ride __attribute__((aligned(64)));
static word request[9], answer[8];
static int channel;
static sigjmp_buf landing;
static volatile int caught;

static void on_fault(int number)
{
	caught = number;
	siglongjmp(landing, 1);
}

static word minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (word)usage.ru_minflt;
}

/* Reads every page of our program, and writes to those that can be written: after a fork each would fault once. */
static void own_all_pages(void)
{
	extern char __executable_start, __data_start, _end;
	static volatile char *volatile page;
	volatile char below[STACK_KEPT];

	for (page = &__executable_start; page < (volatile char *)&_end; page += 4096)
		if (sigsetjmp(landing, 0) == 0)
			(void)*page; /* there may be gaps between segments */
	for (page = &__data_start; page < (volatile char *)&_end; page += 1024)
		*page = *page;
	for (unsigned i = 0; i < sizeof below; i += 1024)
		below[i] = 1;
	minor_faults();
}

/* One message; the file that came with it, or -1. Ends the process when nobody is left to ask. */
static int receive(void)
{
	struct iovec part = {request, sizeof request};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &ride, .msg_controllen = sizeof ride};
	int file = -1;

	if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != sizeof request)
		_exit(0);
	if (message.msg_controllen >= sizeof ride.header && ride.header.cmsg_type == SCM_RIGHTS)
		memcpy(&file, CMSG_DATA(&ride.header), sizeof file);
	return file;
}

static void send_answer(void)
{
	if (write(channel, answer, sizeof answer) != sizeof answer)
		_exit(1);
}

static word system_call(const word *a)
{
	register word r10 __asm__("r10") = a[4];
	register word r8 __asm__("r8") = a[5];
	register word r9 __asm__("r9") = a[6];
	word result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(a[0]), "D"(a[1]), "S"(a[2]), "d"(a[3]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

enum touch { LOAD, STORE, WHOLE_PAGE };

static void touch_one(word kind, word address, word value, volatile word *sum)
{
	volatile word *at = (volatile word *)address;

	switch (kind) {
	case LOAD:
		*sum = *sum * 1099511628211u + *at;
		break;
	case STORE:
		*at = value;
		break;
	default:
		for (unsigned i = 0; i < 512; i++)
			at[i] = value;
	}
}

static void touch(void)
{
	static volatile word i, sum; /* across siglongjmp */
	const word *a = request + 1;
	const word before = minor_faults();

	answer[0] = answer[1] = answer[2] = 0;
	answer[3] = ~(word)0;
	sum = 0;
	for (i = 0; i < a[2]; i++) {
		if (sigsetjmp(landing, 0) == 0) {
			touch_one(a[0], a[1] + i * a[3], a[4] + i * a[5], &sum);
			answer[0]++;
			continue;
		}
		answer[caught == SIGSEGV ? 1 : 2]++;
		if (answer[3] == ~(word)0)
			answer[3] = i;
	}
	answer[4] = minor_faults() - before;
	answer[5] = sum;
}

static void runs(void)
{
	const word end = request[1] + request[2];
	word at = request[1], skip = request[3], n = 0;

	memset(answer, 0, sizeof answer);
	while (at < end && n < 3) {
		word stop;

		while (at < end && !(scratch[at] & 1))
			at++;
		for (stop = at; stop < end && (scratch[stop] & 1); stop++)
			;
		if (stop == at)
			break;
		if (skip > 0) {
			skip--;
		} else {
			answer[2 * n + 1] = at - request[1];
			answer[2 * n + 2] = stop - at;
			n++;
		}
		at = stop;
	}
	answer[0] = n;
}

static void fork_with(int socket)
{
	const long child = syscall(SYS_fork);

	own_all_pages();
	if (child == 0) {
		close(channel);
		channel = socket;
		answer[0] = (word)getpid();
		return;
	}
	close(socket);
	answer[0] = (word)child;
}

static void serve(int file)
{
	word before;

	switch (request[0]) {
	case WHERE:
		answer[0] = (word)(uintptr_t)scratch;
		answer[1] = sizeof scratch;
		answer[2] = (word)getpid();
		break;
	case CALL:
		before = minor_faults();
		answer[0] = system_call(request + 1);
		answer[1] = minor_faults() - before;
		break;
	case TOUCH:
		touch();
		break;
	case POKE:
		memcpy(scratch + request[1], request + 3, request[2] * sizeof(word));
		break;
	case PEEK:
		memcpy(answer, scratch + request[1], sizeof answer);
		break;
	case FILL:
		for (word i = 0; i < request[2]; i++)
			((word *)(scratch + request[1]))[i] = request[3];
		break;
	case KEEP:
		answer[0] = (word)(long)file;
		break;
	case FORK:
		fork_with(file);
		break;
	case RUNS:
		runs();
		break;
	default:
		_exit(0);
	}
}

int main(int argc, char **argv)
{
	const stack_t alternate = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
	struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER};

	if (argc != 2)
		return 2;
	channel = atoi(argv[1]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaltstack(&alternate, 0);
	sigaction(SIGSEGV, &action, 0);
	sigaction(SIGBUS, &action, 0);
	signal(SIGCHLD, SIG_IGN);
	own_all_pages();
	for (;;) {
		const int file = receive();

		serve(file);
		send_answer();
	}
}
