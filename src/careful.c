/* Handlers with options that most do not have, and what all handlers of some buses need: the slow way
 * to call them.
 *
 * A plan is marked when it is made (AEB_PLAN_CAREFUL), so that the others are spared every question
 * that is asked here.
 */
#include "careful.h"

#include "report.h"

/* Calls one sync handler that has been claimed.  0, or -1 with an error that must propagate. */
static int
call_carefully(aeb_bus *bus, aeb_plan *plan, Py_ssize_t index, aeb_occasion *occasion, bool nested,
               PyObject **late)
{
    aeb_plan_entry *entry = &plan->entries[index];
    PyObject *result = aeb_call_handler(entry->sub, entry->form, occasion);
    if (result == NULL) {
        return aeb_report_failure(bus, entry->sub, occasion->name, nested);
    }
    int status = aeb_is_awaitable(result) ? aeb_add_late(late, index, result) : 0;
    Py_DECREF(result);
    return status;
}

Py_ssize_t
aeb_dispatch_carefully(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                       PyObject **late)
{
    Py_ssize_t called = 0;
    for (Py_ssize_t i = 0; i < plan->n_sync; i++) {
        if (!aeb_registry_claim(plan->entries[i].sub)) {
            continue;
        }
        called++;
        if (call_carefully(bus, plan, i, occasion, nested, late) < 0) {
            return -1;
        }
    }
    return called;
}
