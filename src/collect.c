/* Collecting: emissions that answer with what became of each handler.
 *
 * The handlers are called as they always are; what they return and raise goes into a list of outcomes
 * (careful.c for sync handlers, handler_end.c for async ones).  `collect_async` is an ordinary
 * emission with such a list.
 */
#include "collect.h"

#include "aio.h"
#include "careful.h"
#include "handler_task.h"
#include "outcome.h"
#include "report.h"
#include "schedule.h"
#include "timing.h"

/* RuntimeError in a running loop.  0 or -1. */
static int
check_no_running_loop(aeb_bus *bus)
{
    PyObject *running;
    if (aeb_aio_running_loop(bus->state, &running) < 0) {
        return -1;
    }
    if (running != NULL) {
        Py_DECREF(running);
        PyErr_SetString(PyExc_RuntimeError,
                        "collect() cannot wait for async or offloaded handlers inside a running "
                        "event loop: await collect_async()");
        return -1;
    }
    return 0;
}

static bool
has_async_handler(const aeb_plan *plan)
{
    for (Py_ssize_t i = plan->n_sync; i < plan->n_entries; i++) {
        if (aeb_subscription_is_active(plan->entries[i].sub)) {
            return true;
        }
    }
    return false;
}

/* Calls the handlers.  0, or -1 with an error; that of a guard is an outcome already. */
static int
run_plan(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested)
{
    PyObject *late = NULL;
    int status = plan->flags ? aeb_dispatch_prepare(bus, plan, occasion) : 0;
    if (status == 0) {
        status = aeb_dispatch_carefully(bus, plan, occasion, nested, &late) < 0 ? -1 : 0;
    }
    if (status == 0 && late != NULL) {
        status = check_no_running_loop(bus);
    }
    if (status < 0) {
        aeb_close_late(bus->state, late, 0);
    }
    else if (late != NULL || plan->n_sync < plan->n_entries) {
        status = aeb_schedule_here(bus, plan, occasion, late, NULL, nested) < 0 ? -1 : 0;
    }
    Py_XDECREF(late);
    return status;
}

static int
collect_plan(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion)
{
    if (has_async_handler(plan) && check_no_running_loop(bus) < 0) {
        return -1;
    }
    occasion->seq = aeb_take_early_number(bus, plan);
    int nested = aeb_dispatch_enter(bus->state);
    if (nested < 0) {
        return -1;
    }
    aeb_watch watch = {0};
    if (bus->slow_after > 0.0) {
        watch.began = aeb_monotonic_ns();
        occasion->watch = &watch;
    }
    int status = run_plan(bus, plan, occasion, nested);
    if (status < 0 && occasion->guard_failed) {
        PyErr_Clear();
        status = 0;
    }
    if (watch.began != 0 && aeb_watch_end(bus, &watch, plan->name, nested, status < 0) < 0) {
        status = -1;
    }
    aeb_dispatch_leave(bus->state, nested);
    Py_CLEAR(occasion->event);
    return status < 0 ? -1 : aeb_outcomes_finish(occasion->outcomes);
}

PyObject *
aeb_collect(aeb_bus *bus, PyObject *name, PyObject *payload)
{
    if (AEB_LOAD(bus->closed)) {
        return aeb_report_closed(bus, name) < 0 ? NULL : PyList_New(0);
    }
    if (bus->async_only) {
        PyErr_SetString(PyExc_RuntimeError, "the bus is async_only: await collect_async() instead");
        return NULL;
    }
    aeb_plan *plan = aeb_registry_plan(bus, name);
    if (plan == NULL) {
        return NULL;
    }
    PyObject *outcomes = PyList_New(0);
    if (outcomes != NULL) {
        aeb_occasion occasion = {.name = plan->name, .payload = payload, .outcomes = outcomes};
        if (collect_plan(bus, plan, &occasion) < 0) {
            Py_CLEAR(outcomes);
        }
    }
    Py_DECREF(plan);
    return outcomes;
}
