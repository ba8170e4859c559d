/* Permits: how many async handlers of one bus run at once (max_concurrency). */
#ifndef AEB_PERMIT_H
#define AEB_PERMIT_H

#include "handler_task.h"

/* Whether a delivery that has just been made may be started on `loop`.  1: go ahead; 0: it waits in
 * the queue of `bus`, which the caller holds, and is started when its turn comes, or it is over already;
 * -1 with an exception. */
int aeb_permit_take_limited(aeb_bus *bus, aeb_handler_task *delivery, PyObject *loop);

/* The same; an `exempt` delivery goes ahead without a permit. */
static inline int
aeb_permit_take(aeb_bus *bus, aeb_handler_task *delivery, PyObject *loop, bool exempt)
{
    return AEB_LIKELY(bus->max_concurrency == 0) || exempt
               ? 1
               : aeb_permit_take_limited(bus, delivery, loop);
}

/* Its loop is about to start a delivery of this bus, which may have waited for a permit. */
void aeb_permit_begins(aeb_bus *bus, aeb_handler_task *delivery);

/* Gives back the permit of a delivery, or its place in the queue, and starts the next one.  Never
 * raises; a pending exception stays. */
void aeb_permit_give_back(aeb_bus *bus, aeb_handler_task *delivery);

/* The same for one that may have neither.  Without a GIL another thread may be giving it a permit, and
 * only under the lock can be seen what it has; permits_pid tells of a limit that the bus has had. */
static inline void
aeb_permit_release(aeb_handler_task *delivery)
{
    bool may_have = AEB_HAS_GIL
                        ? delivery->queued || delivery->permit != 0
                        : delivery->bus != NULL && (delivery->bus->max_concurrency > 0 ||
                                                    AEB_LOAD(delivery->bus->permits_pid) != 0);
    if (AEB_UNLIKELY(may_have)) {
        aeb_permit_give_back(delivery->bus, delivery);
    }
}

/* The calling handler, and those that wait for it, are about to wait for all that the bus has to
 * do: they give their permits of it up.  0 or -1. */
int aeb_permit_give_up_own(aeb_bus *bus);

int aeb_permit_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_permit_clear(aeb_bus *bus);

#endif
