/* Handlers with options that most do not have, and what all handlers of some buses need: the slow way
 * to call them. */
#ifndef AEB_CAREFUL_H
#define AEB_CAREFUL_H

#include "dispatch.h"

/* What the condition of a subscription says of an event: 1 for yes, also where there is none; 0; -1 as
 * aeb_admit(), of which this is the first half. */
int aeb_ask(aeb_bus *bus, aeb_subscription *sub, aeb_occasion *occasion, bool guarded, bool nested);

/* Whether an event is delivered to a subscription, which is claimed for it then: 1 or 0; -1 with an
 * error that must propagate.  A condition that raises is the handler's failure; `guarded` says
 * whether somebody takes the failures of guards. */
int aeb_admit(aeb_bus *bus, aeb_subscription *sub, aeb_occasion *occasion, bool guarded,
              bool nested);

/* aeb_dispatch_sync() for plans with AEB_PLAN_CAREFUL, and where outcomes are collected. */
Py_ssize_t aeb_dispatch_carefully(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                                  PyObject **late);

/* What a sync handler has returned when it can be awaited, a new reference, or NULL; and how many
 * nanoseconds the call took, where that is measured or there are outcomes. */
typedef struct {
    PyObject *awaitable;
    uint64_t took;
} aeb_promise;

/* Calls the handler of an entry, which has been claimed, inline.  `clock` is NULL where nothing is
 * measured, else the time of the call; it becomes that of the end.  1, or 0 when the handler was held
 * weakly and is gone; -1 with an error that must propagate. */
int aeb_call_carefully(aeb_bus *bus, const aeb_plan_entry *entry, aeb_occasion *occasion,
                       bool nested, uint64_t *clock, aeb_promise *promise);

#endif
