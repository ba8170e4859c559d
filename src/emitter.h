/* Emitting: what `emit` and an Emitter share, and the Emitter, which is bound to one event name. */
#ifndef AEB_EMITTER_H
#define AEB_EMITTER_H

#include "bus_object.h"
#include "dispatch.h"
#include "registry.h"

int aeb_emitter_init_type(PyObject *module, aeb_state *state);

/* An Emitter of an event name; ValueError or TypeError when it is none. */
PyObject *aeb_emitter_new(aeb_bus *bus, PyObject *name);

/* Runs a plan that has something to do: the number called or started, or -1. */
Py_ssize_t aeb_emit_plan(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion);

/* What emit() does on a bus with emit_barred: nothing, which gives 0, when it is closed; else it is
 * async_only, and this is a RuntimeError. */
PyObject *aeb_emit_barred(aeb_bus *bus, PyObject *name);

/* One emission on a bus that is open; the caller holds references to all of these.  The number of
 * handlers called or started as an int, or NULL. */
static inline PyObject *
aeb_emit(aeb_bus *bus, aeb_plan *plan, PyObject *payload, bool published)
{
    Py_ssize_t count = 0;
    uint64_t seq = aeb_take_early_number(bus, plan);
    if (aeb_dispatch_needed(plan)) {
        aeb_occasion occasion;
        occasion.name = plan->name;
        occasion.payload = payload;
        occasion.event = NULL;
        occasion.outcomes = NULL;
        occasion.seq = seq;
        occasion.guard_failed = occasion.awaited = false;
        occasion.published = published;
        count = aeb_emit_plan(bus, plan, &occasion);
    }
    return AEB_UNLIKELY(count < 0) ? NULL : PyLong_FromSsize_t(count);
}

#endif
