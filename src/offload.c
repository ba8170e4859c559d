/* Offloaded handlers: sync ones that run in a worker thread where there is a loop to wait for it.
 *
 * In a plan they stand among the async handlers, and to a delivery each is a coroutine: that of
 * agent_event_bus._loop.offloaded, which waits for the thread.  Only where there is no loop, and so
 * nobody whom a blocking handler would hold up, are they called like sync ones.
 */
#include "offload.h"

#include "careful.h"
#include "timing.h"

static int
load_offloaded(aeb_state *state)
{
    if (AEB_LIKELY(AEB_LOAD(state->offloaded) != NULL)) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("agent_event_bus._loop");
    if (module == NULL) {
        return -1;
    }
    PyObject *found = PyObject_GetAttrString(module, "offloaded");
    Py_DECREF(module);
    if (found == NULL) {
        return -1;
    }
    aeb_fill_once(&state->offloaded, found);
    return 0;
}

int
aeb_call_offloaded(aeb_state *state, aeb_subscription *sub, aeb_form form,
                   const aeb_occasion *occasion, PyObject **result)
{
    if (load_offloaded(state) < 0) {
        return -1;
    }
    PyObject *handler = aeb_subscription_handler(sub);
    if (handler == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *args[3] = {handler, occasion->payload, NULL};
    size_t n_args = 2;
    if (form == AEB_FORM_NAME_PAYLOAD) {
        args[1] = occasion->name;
        args[2] = occasion->payload;
        n_args = 3;
    }
    else if (form == AEB_FORM_EVENT) {
        args[1] = occasion->event;
    }
    (void)AEB_ADD(sub->calls, 1);
    *result = PyObject_Vectorcall(state->offloaded, args, n_args, NULL);
    Py_DECREF(handler);
    return *result == NULL ? -1 : 1;
}

/* Where an awaitable of `sub` belongs among those of `late`, which are in the order of handlers. */
static Py_ssize_t
late_position(PyObject *late, const aeb_plan *plan, const aeb_subscription *sub)
{
    Py_ssize_t i = PyList_GET_SIZE(late);
    while (i > 0) {
        PyObject *index = PyTuple_GET_ITEM(PyList_GET_ITEM(late, i - 1), 0);
        if (!aeb_subscription_before(sub, plan->entries[PyLong_AsSsize_t(index)].sub)) {
            break;
        }
        i--;
    }
    return i;
}

static int
insert_late(PyObject **late, const aeb_plan *plan, Py_ssize_t index, PyObject *awaitable,
            uint64_t took)
{
    if (*late == NULL && (*late = PyList_New(0)) == NULL) {
        return -1;
    }
    PyObject *item = Py_BuildValue("(nOK)", index, awaitable, (unsigned long long)took);
    if (item == NULL) {
        return -1;
    }
    int status = PyList_Insert(*late, late_position(*late, plan, plan->entries[index].sub), item);
    Py_DECREF(item);
    return status;
}

Py_ssize_t
aeb_call_offloaded_inline(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                          PyObject **late)
{
    Py_ssize_t n_called = 0;
    int status = 0;
    bool timed = plan->flags & AEB_PLAN_TIMED;
    for (Py_ssize_t i = plan->n_sync; status >= 0 && i < plan->n_entries; i++) {
        aeb_plan_entry *entry = &plan->entries[i];
        aeb_promise promise;
        if (!entry->sub->offload) {
            continue;
        }
        if (timed && (status = aeb_timing_prepare(bus, entry->sub)) < 0) {
            break;
        }
        status = aeb_admit(bus, entry->sub, occasion, true, nested);
        if (status <= 0) {
            continue;
        }
        uint64_t clock = timed ? aeb_monotonic_ns() : 0;
        status = aeb_call_carefully(bus, entry, occasion, nested, timed ? &clock : NULL, &promise);
        n_called += status != 0;
        if (promise.awaitable != NULL) {
            status = insert_late(late, plan, i, promise.awaitable, promise.took);
            Py_DECREF(promise.awaitable);
        }
    }
    (void)AEB_ADD(bus->n_delivered, (uint64_t)n_called);
    return status < 0 ? -1 : n_called;
}
