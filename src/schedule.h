/* What `emit` leaves to event loops: deciding where async handlers run, and keeping them alive. */
#ifndef AEB_SCHEDULE_H
#define AEB_SCHEDULE_H

#include "bus_object.h"
#include "dispatch.h"
#include "registry.h"

/* Runs or schedules the async handlers of `plan` and the awaitables in `late` (may be NULL): in the
 * running loop, else in the bound one, else to completion.  A loop gets no more than max_pending
 * admits.  The number of handlers that were started or scheduled, without those that had been called
 * to return an awaitable; or -1 with an error that must propagate. */
Py_ssize_t aeb_schedule(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
                        bool nested);

/* The same where there is no loop: runs them to completion, in this thread.  `exc` (stolen, or NULL)
 * says why async handlers cannot be run, which is then the failure of each. */
Py_ssize_t aeb_schedule_here(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
                             PyObject *exc_steal, bool nested);

/* How many deliveries are pending in this process. */
Py_ssize_t aeb_schedule_n_pending(aeb_bus *bus);

/* The pending deliveries, a new list of HandlerTask in the order they were scheduled. */
PyObject *aeb_schedule_pending(aeb_bus *bus);

/* The pending delivery whose handler the calling code belongs to, itself or through emissions that
 * it awaits: a new reference in *own, or NULL.  0 or -1. */
int aeb_schedule_own_delivery(aeb_bus *bus, PyObject **own);

/* Has `callback()` called once, in any thread, when nothing is pending, or nothing but parked
 * deliveries when `ignore_parked`: at once when that is so already.  0 or -1. */
int aeb_schedule_when_idle(aeb_bus *bus, PyObject *callback, bool ignore_parked);

/* Forgets a callback that has not been called yet. */
void aeb_schedule_forget_callback(aeb_bus *bus, PyObject *callback);

/* Parks or unparks a pending delivery: one whose handler waits for all the others. */
int aeb_schedule_park(aeb_bus *bus, PyObject *delivery, bool parked);

int aeb_schedule_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_schedule_clear(aeb_bus *bus);

#endif
