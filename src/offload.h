/* Offloaded handlers: sync ones that run in a worker thread where there is a loop to wait for it. */
#ifndef AEB_OFFLOAD_H
#define AEB_OFFLOAD_H

#include "dispatch.h"
#include "registry.h"

/* What runs the handler in a worker thread when it is awaited, a coroutine; counts the call.  1 with
 * *result, -1 with an exception, and 0 when the handler was held weakly and is gone. */
int aeb_call_offloaded(aeb_state *state, aeb_subscription *sub, aeb_form form,
                       const aeb_occasion *occasion, PyObject **result);

/* Where there is no loop: calls the offloaded handlers of `plan` here, in order.  A handler that
 * returns an awaitable is added to *late (a list, or NULL for none so far) at its place.  The number
 * of handlers called, or -1 with an error that must propagate. */
Py_ssize_t aeb_call_offloaded_inline(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion,
                                     bool nested, PyObject **late);

#endif
