/* Lets one process at a time run on the device: the first plan that cuDNN executes waits its turn.

   Preloaded into a measuring process. Choosing and loading a convolution's plans keeps a core busy
   long before the device has anything to do; then each plan is executed through
   cudnnBackendExecute, which stands here before cuDNN's own. It takes the lock of the file that
   BENCH_TURN names, unless the process holds it; the process gives it back with turn_release.

   A search times each plan after one execution that warms it. Whoever has just waited finds colder
   caches than a process alone would: its first plan took 3 us longer than there, and as much less
   when it was executed twice more. So it is executed once more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>

typedef int (*execute)(void *, void *, void *);

static int lock = -1, held = 0;
static long executed = 0;
static double waited = 0, kept = 0, since = 0;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int turn_take(void)
{
    const char *path = getenv("BENCH_TURN");
    if (held || !path)
        return 0;
    if (lock < 0 && (lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
        return -1;
    double begin = now();
    while (flock(lock, LOCK_EX))
        if (errno != EINTR)
            return -1;
    held = 1;
    since = now();
    waited += since - begin;
    return 0;
}

void turn_release(void)
{
    if (held) {
        held = 0;
        kept += now() - since;
        flock(lock, LOCK_UN);
    }
}

long turn_executed(void) { return executed; }

double turn_waited(void) { return waited; }

double turn_kept(void) { return kept; }

int cudnnBackendExecute(void *handle, void *plan, void *operands)
{
    static execute next = 0;
    if (!next && !(next = (execute)dlsym(RTLD_NEXT, "cudnnBackendExecute"))) {
        void *library = dlopen("libcudnn.so.9", RTLD_LAZY | RTLD_NOLOAD);
        next = library ? (execute)dlsym(library, "cudnnBackendExecute") : 0;
    }
    if (!next)
        return 1;
    executed++;
    if (!held && !turn_take())
        next(handle, plan, operands);
    return next(handle, plan, operands);
}
