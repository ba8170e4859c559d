/* Timing: how long handlers take (EventBus(timing=True)) and events (slow_after). */
#ifndef AEB_TIMING_H
#define AEB_TIMING_H

#include "bus_object.h"
#include "plan.h"
#include "subscription.h"

/* One emission on a bus with slow_after. */
typedef struct aeb_watch {
    uint64_t began;   /* aeb_monotonic_ns(); 0: another watch takes over what is found out */
    uint64_t longest; /* what the slowest handler took, in nanoseconds */
    aeb_subscription *slowest; /* strong, or NULL */
} aeb_watch;

/* Sets what is measured from now on. */
void aeb_timing_configure(aeb_bus *bus, bool timing, double slow_after);

/* Prepares for measuring a handler, before it is called.  0 or -1. */
int aeb_timing_prepare_latency(aeb_bus *bus, aeb_subscription *sub);

static inline int
aeb_timing_prepare(aeb_bus *bus, aeb_subscription *sub)
{
    return AEB_LIKELY(AEB_LOAD(sub->latency) != NULL || !bus->timing)
               ? 0
               : aeb_timing_prepare_latency(bus, sub);
}

/* The nanoseconds since `clock`, which is set to now. */
static inline uint64_t
aeb_timing_lap(uint64_t *clock)
{
    uint64_t now = aeb_monotonic_ns(), took = now - *clock;
    *clock = now;
    return took;
}

/* Accounts for one delivery, which took so many nanoseconds; `watch` may be NULL.  A pending exception
 * stays. */
void aeb_timing_note(aeb_subscription *sub, aeb_watch *watch, uint64_t took);

/* A new watch that has not begun; NULL with MemoryError.  aeb_watch_free() frees it. */
aeb_watch *aeb_watch_new(void);
void aeb_watch_free(aeb_watch *watch);

/* A handler took so many nanoseconds.  A pending exception stays. */
void aeb_watch_note(aeb_watch *watch, aeb_subscription *sub, uint64_t took);

/* The emission is over: says so in the log when it took too long.  A pending exception, which there
 * is when `raised`, stays.  0, or -1 with an error that must propagate. */
int aeb_watch_end(aeb_bus *bus, aeb_watch *watch, PyObject *name, bool nested, bool raised);

/* The latencies by handler name, in seconds, as a new dict. */
PyObject *aeb_timing_latencies(aeb_bus *bus);

int aeb_timing_traverse(aeb_bus *bus, visitproc visit, void *arg);
/* When nothing can measure any more. */
void aeb_timing_free(aeb_bus *bus);

#endif
