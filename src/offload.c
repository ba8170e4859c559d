/* Offloaded handlers: sync ones that run in a worker thread where there is a loop to wait for it.
 *
 * In a plan they stand among the async handlers, and to a delivery each is a coroutine: that of
 * agent_event_bus._loop.offloaded, which waits for the thread.  Only where there is no loop, and so
 * nobody whom a blocking handler would hold up, are they called like sync ones.
 */
#include "offload.h"

#include "careful.h"

static int
load_offloaded(aeb_state *state)
{
    if (AEB_LIKELY(state->offloaded != NULL)) {
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
    Py_XSETREF(state->offloaded, found);
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
    sub->calls++;
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
insert_late(PyObject **late, const aeb_plan *plan, Py_ssize_t index, PyObject *awaitable)
{
    if (*late == NULL && (*late = PyList_New(0)) == NULL) {
        return -1;
    }
    PyObject *pair = Py_BuildValue("(nO)", index, awaitable);
    if (pair == NULL) {
        return -1;
    }
    int status = PyList_Insert(*late, late_position(*late, plan, plan->entries[index].sub), pair);
    Py_DECREF(pair);
    return status;
}

Py_ssize_t
aeb_call_offloaded_inline(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                          PyObject **late)
{
    Py_ssize_t n_called = 0;
    for (Py_ssize_t i = plan->n_sync; i < plan->n_entries; i++) {
        aeb_plan_entry *entry = &plan->entries[i];
        int status = entry->sub->offload ? aeb_admit(bus, entry->sub, occasion, true, nested) : 0;
        if (status == 0) {
            continue;
        }
        PyObject *awaitable = NULL;
        int called = status < 0 ? -1 : aeb_call_carefully(bus, entry, occasion, nested, &awaitable);
        if (awaitable != NULL) {
            status = insert_late(late, plan, i, awaitable);
            Py_DECREF(awaitable);
        }
        if (called < 0 || status < 0) {
            return -1;
        }
        n_called += called;
    }
    return n_called;
}
