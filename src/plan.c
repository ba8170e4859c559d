/* Plans: what the registry's lists come to for one event name, made at its first emission and kept.
 *
 * Plans of names that nobody subscribed to exactly are all the same one, `any_plan`; `plans` holds
 * a bounded number of such names, so a million distinct names do not grow memory.
 *
 * What registry.c says about locking holds here too.
 */
#include "plan.h"

#include "keys.h"
#include "schema.h"

/* Names without an exact subscription that are kept before the plans are dropped and begun anew. */
#define MAX_ANY_PLANS 1024

/* Longer names, in characters, are not kept: a few long ones take as much as many short ones. */
#define MAX_ANY_NAME 256

/* ---- the type ------------------------------------------------------------------------------- */

static int
plan_traverse(aeb_plan *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < self->n_entries; i++) {
        Py_VISIT(self->entries[i].sub);
    }
    Py_VISIT(self->check);
    return 0;
}

static int
plan_clear(aeb_plan *self)
{
    Py_ssize_t n = self->n_entries;
    self->n_sync = self->n_entries = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_CLEAR(self->entries[i].sub);
    }
    Py_CLEAR(self->check);
    return 0;
}

static void
plan_dealloc(aeb_plan *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)plan_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot plan_slots[] = {
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_traverse, plan_traverse},
    {Py_tp_clear, plan_clear},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "agent_event_bus._core.Plan",
    .basicsize = offsetof(aeb_plan, entries),
    .itemsize = sizeof(aeb_plan_entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = plan_slots,
};

static Py_ssize_t
plan_list_size(PyObject *list)
{
    return list == NULL ? 0 : PyList_GET_SIZE(list);
}

static aeb_subscription *
plan_list_item(PyObject *list, Py_ssize_t i)
{
    return (aeb_subscription *)PyList_GET_ITEM(list, i);
}

/* The next subscription of two sorted lists in common order.  One that stands in both is delivered
 * once, in its exact form. */
static aeb_plan_entry
merge_next(PyObject *exact, Py_ssize_t *i, PyObject *any, Py_ssize_t *j)
{
    aeb_subscription *a = *i < plan_list_size(exact) ? plan_list_item(exact, *i) : NULL;
    aeb_subscription *b = *j < plan_list_size(any) ? plan_list_item(any, *j) : NULL;
    bool take_exact = b == NULL || (a != NULL && !aeb_subscription_before(b, a));
    aeb_plan_entry entry = {
        .sub = take_exact ? a : b,
        .form = take_exact ? AEB_FORM_PAYLOAD : AEB_FORM_NAME_PAYLOAD,
    };
    *i += take_exact;
    *j += !take_exact || a == b;
    if (entry.sub->envelope) {
        entry.form = AEB_FORM_EVENT;
    }
    return entry;
}

/* Fills a fresh plan: the sync handlers in order, then the async ones.  Runs no Python code. */
static void
plan_fill(aeb_plan *plan, PyObject *exact, PyObject *any)
{
    for (int async_pass = 0; async_pass <= 1; async_pass++) {
        Py_ssize_t i = 0, j = 0;
        while (i < plan_list_size(exact) || j < plan_list_size(any)) {
            aeb_plan_entry entry = merge_next(exact, &i, any, &j);
            if (entry.sub->bus != NULL && entry.sub->is_async == (bool)async_pass) {
                Py_INCREF(entry.sub);
                plan->entries[plan->n_entries++] = entry;
                plan->flags |= entry.form == AEB_FORM_EVENT ? AEB_PLAN_ENVELOPE : 0;
                plan->flags |= entry.sub->careful ? AEB_PLAN_CAREFUL : 0;
            }
        }
        if (!async_pass) {
            plan->n_sync = plan->n_entries;
        }
    }
}

/* A plan for the lists that `key` (NULL: none) and "*" have at this moment. */
static aeb_plan *
plan_new(aeb_bus *bus, PyObject *key)
{
    PyObject *any_key = bus->state->any_key;
    for (;;) {
        PyObject *exact = key == NULL ? NULL : PyDict_GetItemWithError(bus->lists, key);
        PyObject *any = PyDict_GetItemWithError(bus->lists, any_key);
        Py_ssize_t capacity = plan_list_size(exact) + plan_list_size(any);
        aeb_plan *plan = aeb_type_alloc(bus->state->plan_type, capacity);
        if (plan == NULL) {
            return NULL;
        }
        /* The allocation may have run a collection, and a finaliser may have subscribed. */
        exact = key == NULL ? NULL : PyDict_GetItemWithError(bus->lists, key);
        any = PyDict_GetItemWithError(bus->lists, any_key);
        if (plan_list_size(exact) + plan_list_size(any) <= capacity) {
            plan_fill(plan, exact, any);
            return plan;
        }
        Py_DECREF(plan);
    }
}

/* Lets go of all plans but the one of "*", which is the same for all names without their own. */
static void
drop_own_plans(aeb_bus *bus)
{
    bus->plans_version++;
    bus->n_any_plans = 0;
    PyDict_Clear(bus->plans);
}

/* The plan of every name that nobody subscribed to exactly, a new reference. */
static aeb_plan *
any_plan(aeb_bus *bus)
{
    if (bus->any_plan == NULL) {
        PyObject *fresh = (PyObject *)plan_new(bus, NULL);
        if (bus->any_plan != NULL) {
            Py_CLEAR(fresh); /* a finaliser emitted while it was made: they are the same */
        }
        bus->any_plan = fresh != NULL ? fresh : bus->any_plan;
    }
    return (aeb_plan *)Py_XNewRef(bus->any_plan);
}

/* Remembers the plan of a name unless a finaliser has had the same idea: the one in `plans` stays,
 * because emitters may have borrowed it.  A new reference to that, or NULL. */
static aeb_plan *
remember_plan(aeb_bus *bus, PyObject *name, aeb_plan *plan_steal, bool own)
{
    if (!own && PyUnicode_GET_LENGTH(name) > MAX_ANY_NAME) {
        return plan_steal;
    }
    PyObject *kept = Py_XNewRef(PyDict_SetDefault(bus->plans, name, (PyObject *)plan_steal));
    bus->n_any_plans += !own && kept != NULL;
    Py_DECREF(plan_steal);
    return (aeb_plan *)kept;
}

aeb_plan *
aeb_registry_make_plan(aeb_bus *bus, PyObject *name, PyObject **exact_name)
{
    PyObject *exact = aeb_event_name_normalize(name);
    if (exact == NULL) {
        return NULL;
    }
    /* A str subclass comes here each time, although its plan may exist. */
    aeb_plan *plan = (aeb_plan *)Py_XNewRef(PyDict_GetItemWithError(bus->plans, exact));
    if (plan == NULL && aeb_schema_admit(bus, exact) < 0) {
        Py_DECREF(exact);
        return NULL;
    }
    while (plan == NULL) {
        PyObject *check = aeb_schema_checker(bus, exact);
        bool own = check != NULL || PyDict_GetItemWithError(bus->lists, exact) != NULL;
        if (!own && bus->n_any_plans >= MAX_ANY_PLANS) {
            drop_own_plans(bus);
        }
        uint64_t version = bus->plans_version;
        plan = own ? plan_new(bus, exact) : any_plan(bus);
        if (plan != NULL && version != bus->plans_version) {
            Py_CLEAR(plan); /* a finaliser subscribed or cancelled while it was made: once more */
            continue;
        }
        if (plan != NULL && check != NULL) {
            plan->check = Py_NewRef(check);
            plan->flags |= AEB_PLAN_CHECKED;
        }
        if (plan == NULL || (plan = remember_plan(bus, exact, plan, own)) == NULL) {
            Py_DECREF(exact);
            return NULL;
        }
    }
    *exact_name = exact;
    return plan;
}

void
aeb_plans_drop_all(aeb_bus *bus)
{
    PyObject *stale = bus->any_plan;
    bus->any_plan = NULL;
    drop_own_plans(bus);
    Py_XDECREF(stale);
}

void
aeb_plans_drop(aeb_bus *bus, PyObject *key)
{
    if (key == bus->state->any_key) {
        aeb_plans_drop_all(bus);
        return;
    }
    bus->plans_version++;
    if (PyDict_GetItemWithError(bus->plans, key) != NULL && PyDict_DelItem(bus->plans, key) < 0) {
        PyErr_Clear(); /* it was there: only the dict's own allocation can fail */
        drop_own_plans(bus);
    }
}

/* ---- life cycle ---------------------------------------------------------------------------- */

int
aeb_plans_init(aeb_bus *bus)
{
    bus->plans = PyDict_New();
    return bus->plans == NULL ? -1 : 0;
}

int
aeb_plans_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->plans);
    Py_VISIT(bus->any_plan);
    return 0;
}

void
aeb_plans_clear(aeb_bus *bus)
{
    if (bus->plans != NULL) {
        aeb_plans_drop_all(bus);
    }
}

int
aeb_plan_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &plan_spec, &state->plan_type, false);
}
