/* The process that holds a pod's namespaces open: waits for the end, collects orphans. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int number) { exit(0); }
static void collect(int number) { while (waitpid(-1, NULL, WNOHANG) > 0); }

int main(void) {
	signal(SIGINT, leave);
	signal(SIGTERM, leave);
	signal(SIGCHLD, collect);
	for (;;) pause();
}
