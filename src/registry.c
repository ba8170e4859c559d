/* The registry: which handlers an event name reaches, compiled into immutable plans.
 *
 * Two dicts.  `lists` maps each key to its subscriptions, sorted by priority and registration:
 * the truth.  `plans` maps event names to what an emission needs, the exact and the wildcard list
 * merged: a cache.  A change to `lists` drops the plans it concerns and the next emission makes new
 * ones; emissions in flight go on with the plan they hold and skip what has ended since.
 *
 * Plans of names that nobody subscribed to exactly are all the same one, `any_plan`; `plans` holds
 * a bounded number of such names, so a million distinct names do not grow memory.
 *
 * Locking: every key in both dicts is an exact str, every list is private, and no subscription has
 * an __eq__, so looking up and changing them runs no Python code and the GIL is never given up
 * in the middle of it.  Python code (finalisers) can run when a plan, a list or a subscription is
 * released, and, before 3.12, when an object is allocated.  So each function allocates first, then
 * changes the registry, then releases.
 */
#include "registry.h"

#include "weak.h"

/* Names without an exact subscription that are kept before the plans are dropped and begun anew. */
#define MAX_ANY_PLANS 1024

/* Longer names, in characters, are not kept: a few long ones take as much as many short ones. */
#define MAX_ANY_NAME 256

/* ---- keys and names ------------------------------------------------------------------------ */

typedef enum { NAME_EXACT, NAME_ANY, NAME_PATTERN, NAME_BAD } name_kind;

/* Classifies a key; for NAME_BAD *rule is the rule that it breaks. */
static name_kind
classify_name(PyObject *name, const char **rule)
{
    int kind = PyUnicode_KIND(name);
    const void *data = PyUnicode_DATA(name);
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    Py_ssize_t segment_start = 0, stars_seen = 0;
    bool pattern = false;

    if (length == 0) {
        *rule = "it is empty";
        return NAME_BAD;
    }
    for (Py_ssize_t i = 0; i <= length; i++) {
        Py_UCS4 c = i < length ? PyUnicode_READ(kind, data, i) : '.';
        if (c == '*') {
            stars_seen++;
            continue;
        }
        if (c != '.') {
            continue;
        }
        Py_ssize_t segment_length = i - segment_start;
        if (segment_length == 0) {
            *rule = "a segment between dots is empty";
            return NAME_BAD;
        }
        if (stars_seen > 0) {
            if (stars_seen != segment_length || stars_seen > 2) {
                *rule = "'*' must be a whole segment, not glued to other characters";
                return NAME_BAD;
            }
            if (stars_seen == 2 && i < length) {
                *rule = "'**' must be the last segment";
                return NAME_BAD;
            }
            pattern = true;
        }
        segment_start = i + 1;
        stars_seen = 0;
    }
    if (!pattern) {
        return NAME_EXACT;
    }
    Py_UCS4 first = PyUnicode_READ(kind, data, 0);
    return length <= 2 && first == '*' && PyUnicode_READ(kind, data, length - 1) == '*'
               ? NAME_ANY
               : NAME_PATTERN;
}

/* name, or the value of the enum member it is, as an exact str: a subclass may have an __eq__ and a
 * __hash__ of its own, which must never run. */
static PyObject *
exact_str(PyObject *name, const char *what)
{
    PyObject *text = PyUnicode_Check(name) ? Py_NewRef(name) : aeb_enum_value(name);
    if (text == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (text == NULL || !PyUnicode_Check(text)) {
        Py_XDECREF(text);
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.200s", what, Py_TYPE(name)->tp_name);
        return NULL;
    }
    PyObject *exact = PyUnicode_FromObject(text);
    Py_DECREF(text);
#if PY_VERSION_HEX < 0x030C0000
    if (exact != NULL && PyUnicode_READY(exact) < 0) {
        Py_CLEAR(exact);
    }
#endif
    return exact;
}

PyObject *
aeb_key_normalize(PyObject *key)
{
    PyObject *exact = exact_str(key, "key");
    if (exact == NULL) {
        return NULL;
    }
    const char *rule = NULL;
    switch (classify_name(exact, &rule)) {
    case NAME_EXACT:
        return exact;
    case NAME_ANY:
        Py_DECREF(exact);
        return PyUnicode_InternFromString("*");
    case NAME_PATTERN:
        PyErr_Format(PyExc_ValueError,
                     "key %R is a pattern: this version supports exact names and '*' only", exact);
        break;
    case NAME_BAD:
        PyErr_Format(PyExc_ValueError, "bad key %R: %s", exact, rule);
        break;
    }
    Py_DECREF(exact);
    return NULL;
}

/* An event name as exact str; ValueError or TypeError when it cannot be one. */
static PyObject *
event_name_normalize(PyObject *name)
{
    PyObject *exact = exact_str(name, "event name");
    if (exact == NULL) {
        return NULL;
    }
    const char *rule = "it is a pattern, and a pattern is not an event";
    if (classify_name(exact, &rule) == NAME_EXACT) {
        return exact;
    }
    PyErr_Format(PyExc_ValueError, "bad event name %R: %s", exact, rule);
    Py_DECREF(exact);
    return NULL;
}

/* ---- plans --------------------------------------------------------------------------------- */

static int
plan_traverse(aeb_plan *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < self->n_entries; i++) {
        Py_VISIT(self->entries[i].sub);
    }
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
list_size(PyObject *list)
{
    return list == NULL ? 0 : PyList_GET_SIZE(list);
}

static aeb_subscription *
list_item(PyObject *list, Py_ssize_t i)
{
    return (aeb_subscription *)PyList_GET_ITEM(list, i);
}

/* The next subscription of two sorted lists in common order.  One that stands in both is delivered
 * once, in its exact form. */
static aeb_plan_entry
merge_next(PyObject *exact, Py_ssize_t *i, PyObject *any, Py_ssize_t *j)
{
    aeb_subscription *a = *i < list_size(exact) ? list_item(exact, *i) : NULL;
    aeb_subscription *b = *j < list_size(any) ? list_item(any, *j) : NULL;
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
        while (i < list_size(exact) || j < list_size(any)) {
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
        Py_ssize_t capacity = list_size(exact) + list_size(any);
        aeb_plan *plan = aeb_type_alloc(bus->state->plan_type, capacity);
        if (plan == NULL) {
            return NULL;
        }
        /* The allocation may have run a collection, and a finaliser may have subscribed. */
        exact = key == NULL ? NULL : PyDict_GetItemWithError(bus->lists, key);
        any = PyDict_GetItemWithError(bus->lists, any_key);
        if (list_size(exact) + list_size(any) <= capacity) {
            plan_fill(plan, exact, any);
            return plan;
        }
        Py_DECREF(plan);
    }
}

/* Lets go of all plans but the one of "*", which is the same for all names without their own. */
static void
drop_all_plans(aeb_bus *bus)
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
    PyObject *exact = event_name_normalize(name);
    if (exact == NULL) {
        return NULL;
    }
    /* A str subclass comes here each time, although its plan may exist. */
    aeb_plan *plan = (aeb_plan *)Py_XNewRef(PyDict_GetItemWithError(bus->plans, exact));
    while (plan == NULL) {
        bool own = PyDict_GetItemWithError(bus->lists, exact) != NULL;
        if (!own && bus->n_any_plans >= MAX_ANY_PLANS) {
            drop_all_plans(bus);
        }
        uint64_t version = bus->plans_version;
        plan = own ? plan_new(bus, exact) : any_plan(bus);
        if (plan != NULL && version != bus->plans_version) {
            Py_CLEAR(plan); /* a finaliser subscribed or cancelled while it was made: once more */
            continue;
        }
        if (plan == NULL || (plan = remember_plan(bus, exact, plan, own)) == NULL) {
            Py_DECREF(exact);
            return NULL;
        }
    }
    *exact_name = exact;
    return plan;
}

/* Drops the plans that a change under `key` has made stale.  Releasing them can run finalisers. */
static void
drop_plans(aeb_bus *bus, PyObject *key)
{
    if (key == bus->state->any_key) {
        PyObject *stale = bus->any_plan;
        bus->any_plan = NULL;
        drop_all_plans(bus);
        Py_XDECREF(stale);
        return;
    }
    bus->plans_version++;
    if (PyDict_GetItemWithError(bus->plans, key) != NULL && PyDict_DelItem(bus->plans, key) < 0) {
        PyErr_Clear(); /* it was there: only the dict's own allocation can fail */
        drop_all_plans(bus);
    }
}

/* ---- lists --------------------------------------------------------------------------------- */

/* Where `sub` stands in a sorted list, or would stand. */
static Py_ssize_t
list_position(PyObject *list, const aeb_subscription *sub)
{
    Py_ssize_t low = 0, high = PyList_GET_SIZE(list);
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (aeb_subscription_before(list_item(list, middle), sub)) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

static int
list_add(aeb_bus *bus, PyObject *key, aeb_subscription *sub)
{
    PyObject *list = Py_XNewRef(PyDict_GetItemWithError(bus->lists, key));
    if (list == NULL) {
        PyObject *fresh = PyList_New(0);
        if (fresh == NULL) {
            return -1;
        }
        /* Another subscription may have come while the list was made: setdefault decides. */
        list = Py_XNewRef(PyDict_SetDefault(bus->lists, key, fresh));
        Py_DECREF(fresh);
        if (list == NULL) {
            return -1;
        }
    }
    int result = PyList_Insert(list, list_position(list, sub), (PyObject *)sub);
    Py_DECREF(list);
    return result;
}

static void
list_discard(aeb_bus *bus, PyObject *key, aeb_subscription *sub)
{
    PyObject *list = PyDict_GetItemWithError(bus->lists, key);
    if (list == NULL) {
        return;
    }
    Py_ssize_t i = list_position(list, sub);
    if (i >= PyList_GET_SIZE(list) || list_item(list, i) != sub) {
        return;
    }
    int failed;
    if (PyList_GET_SIZE(list) == 1) {
        failed = PyDict_DelItem(bus->lists, key) < 0;
    }
    else {
        failed = PyList_SetSlice(list, i, i + 1, NULL) < 0;
    }
    if (failed) {
        PyErr_Clear(); /* out of memory while shrinking: it stays listed, and is skipped as ended */
    }
}

int
aeb_registry_add(aeb_bus *bus, aeb_subscription *sub)
{
    Py_ssize_t n_keys = PyTuple_GET_SIZE(sub->keys);
    sub->id = ++bus->last_id;
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        if (list_add(bus, PyTuple_GET_ITEM(sub->keys, i), sub) < 0) {
            PyObject *exc = aeb_take_exception();
            while (i-- > 0) {
                list_discard(bus, PyTuple_GET_ITEM(sub->keys, i), sub);
            }
            aeb_restore_exception_steal(exc);
            return -1;
        }
    }
    sub->bus = bus;
    bus->n_active++;
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        drop_plans(bus, PyTuple_GET_ITEM(sub->keys, i));
    }
    return 0;
}

bool
aeb_registry_cancel(aeb_subscription *sub)
{
    aeb_bus *bus = sub->bus;
    if (bus == NULL) {
        return false;
    }
    /* The caller may hold an exception, and what is released below may raise and handle others. */
    PyObject *exc = aeb_take_exception();
    Py_INCREF(bus);
    Py_INCREF(sub);
    sub->bus = NULL;
    bus->n_active--;
    Py_ssize_t n_keys = PyTuple_GET_SIZE(sub->keys);
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        list_discard(bus, PyTuple_GET_ITEM(sub->keys, i), sub);
    }
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        drop_plans(bus, PyTuple_GET_ITEM(sub->keys, i));
    }
    aeb_weak_unwatch(sub);
    Py_DECREF(sub);
    Py_DECREF(bus);
    aeb_restore_exception_steal(exc);
    return true;
}

/* Appends what matches to `found`.  Appending allocates no object, so nothing changes the list. */
static int
find_in_list(PyObject *list, PyObject *handler, PyObject *found)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        aeb_subscription *sub = list_item(list, i);
        if ((handler == NULL || aeb_subscription_has_handler(sub, handler)) &&
            PyList_Append(found, (PyObject *)sub) < 0) {
            return -1;
        }
    }
    return 0;
}

PyObject *
aeb_registry_find(aeb_bus *bus, PyObject *key, PyObject *handler)
{
    PyObject *found = PyList_New(0);
    PyObject *lists = NULL;
    if (found == NULL) {
        return NULL;
    }
    if (key != NULL) {
        PyObject *list = Py_XNewRef(PyDict_GetItemWithError(bus->lists, key));
        int result = list == NULL ? 0 : find_in_list(list, handler, found);
        Py_XDECREF(list);
        if (result < 0) {
            goto error;
        }
        return found;
    }
    lists = PyDict_Values(bus->lists);
    if (lists == NULL) {
        goto error;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(lists); i++) {
        if (find_in_list(PyList_GET_ITEM(lists, i), handler, found) < 0) {
            goto error;
        }
    }
    Py_DECREF(lists);
    return found;

error:
    Py_XDECREF(lists);
    Py_DECREF(found);
    return NULL;
}

/* ---- what a Subscription can do by itself --------------------------------------------------- */

PyDoc_STRVAR(subscription_cancel_doc,
             "cancel($self, /)\n--\n\n"
             "End the subscription. Return whether it was active; a second call returns False.\n\n"
             "An emission under way does not call the handler any more unless it is running.");

static PyObject *
subscription_cancel(aeb_subscription *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(aeb_registry_cancel(self));
}

/* The callback of the weak references to its handler. */
static PyObject *
subscription_vanish(aeb_subscription *self, PyObject *Py_UNUSED(reference))
{
    (void)aeb_registry_cancel(self);
    Py_RETURN_NONE;
}

static PyObject *
subscription_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static PyObject *
subscription_exit(aeb_subscription *self, PyObject *Py_UNUSED(args))
{
    (void)aeb_registry_cancel(self);
    Py_RETURN_NONE;
}

static PyMethodDef subscription_methods[] = {
    {"cancel", AEB_METHOD(subscription_cancel), METH_NOARGS, subscription_cancel_doc},
    {"_vanish", AEB_METHOD(subscription_vanish), METH_O,
     PyDoc_STR("_vanish($self, reference, /)\n--\n\nEnd it: its handler is gone.")},
    {"__enter__", AEB_METHOD(subscription_enter), METH_NOARGS, PyDoc_STR("Return self.")},
    {"__exit__", AEB_METHOD(subscription_exit), METH_VARARGS, PyDoc_STR("Cancel.")},
    {NULL, NULL, 0, NULL},
};

/* ---- life cycle ---------------------------------------------------------------------------- */

int
aeb_registry_init(aeb_bus *bus)
{
    bus->lists = PyDict_New();
    bus->plans = PyDict_New();
    return bus->lists == NULL || bus->plans == NULL ? -1 : 0;
}

int
aeb_registry_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->lists);
    Py_VISIT(bus->plans);
    Py_VISIT(bus->any_plan);
    return 0;
}

void
aeb_registry_clear(aeb_bus *bus)
{
    PyObject *key, *list;
    Py_ssize_t position = 0;
    /* First cut every way back to this bus, then release what can run finalisers. */
    while (bus->lists != NULL && PyDict_Next(bus->lists, &position, &key, &list)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            list_item(list, i)->bus = NULL;
            aeb_weak_unwatch(list_item(list, i)); /* releases nothing that runs code */
        }
    }
    bus->n_active = 0;
    bus->n_any_plans = 0;
    bus->plans_version++;
    if (bus->plans != NULL) {
        PyDict_Clear(bus->plans);
    }
    Py_CLEAR(bus->any_plan);
    if (bus->lists != NULL) {
        PyDict_Clear(bus->lists);
    }
}

int
aeb_registry_init_types(PyObject *module, aeb_state *state)
{
    if (aeb_subscription_init_type(module, state, subscription_methods) < 0) {
        return -1;
    }
    return aeb_state_add_type(module, &plan_spec, &state->plan_type, false);
}
