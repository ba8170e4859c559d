/* The registry: the subscriptions of a bus, listed by key.
 *
 * `lists` maps each key to its subscriptions, sorted by priority and registration; the keys that are
 * patterns stand in a trie besides (patterns.c).  That is the truth.  What an emission needs are plans
 * (plan.c), which are made from the lists and kept (plan_cache.c).  A change to a list drops the plans
 * that it concerns and the next emission makes new ones; emissions in flight go on with the plan they
 * hold and skip what has ended since.
 *
 * Locking: all of that is done under the lock of the bus.  Every key in all the dicts is an exact str or
 * int, every list is private, and no subscription has an __eq__, so looking up and changing them runs no
 * Python code and the lock (see compat.h) is never given up in the middle of it.  Python code (finalisers) can run when a plan, a list or a subscription
 * is released, and, before 3.12, when an object is allocated that the collector knows, which str and
 * int are not.  So each function allocates first, then changes the registry, then releases.
 * plans_version goes up with every change, and whoever has used lists around an allocation begins
 * again when it did.
 */
#include "registry.h"

#include "plan.h"
#include "weak.h"
#include "keys.h"
#include "patterns.h"

static aeb_subscription *
list_item(PyObject *list, Py_ssize_t i)
{
    return (aeb_subscription *)PyList_GET_ITEM(list, i);
}

/* Whether a normalised key stands in the trie. */
static bool
is_pattern(aeb_bus *bus, PyObject *key)
{
    return key != bus->state->any_key && aeb_key_has_star(key);
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

/* The list of a key, made when there is none.  A new reference, or NULL. */
static PyObject *
require_list(aeb_bus *bus, PyObject *key, PyObject *listed)
{
    PyObject *list = PyDict_GetItemWithError(bus->lists, listed);
    if (list != NULL) {
        return Py_NewRef(list);
    }
    PyObject *fresh = PyList_New(0);
    if (fresh == NULL) {
        return NULL;
    }
    /* Another subscription may have come while the list was made: setdefault decides. */
    list = Py_XNewRef(PyDict_SetDefault(bus->lists, listed, fresh));
    if (list == fresh && is_pattern(bus, key) && aeb_patterns_add(&bus->patterns, key) < 0) {
        PyObject *exc = aeb_take_exception();
        if (PyDict_DelItem(bus->lists, listed) < 0) {
            PyErr_Clear(); /* as in list_forget(): an empty list remains */
        }
        aeb_restore_exception_steal(exc);
        Py_CLEAR(list);
    }
    Py_DECREF(fresh);
    return list;
}

/* Removes the list of a key.  0 or -1. */
static int
list_forget(aeb_bus *bus, PyObject *key, PyObject *listed)
{
    if (PyDict_DelItem(bus->lists, listed) < 0) {
        return -1;
    }
    if (is_pattern(bus, key)) {
        aeb_patterns_remove(&bus->patterns, key);
    }
    return 0;
}

/* Lists a subscription under one of its keys, by the number of the key. */
static int
list_add(aeb_bus *bus, aeb_subscription *sub, Py_ssize_t i_key)
{
    PyObject *key = PyTuple_GET_ITEM(sub->keys, i_key);
    PyObject *listed = PyTuple_GET_ITEM(sub->listed, i_key);
    PyObject *list = require_list(bus, key, listed);
    if (list == NULL) {
        return -1;
    }
    bus->plans_version++;
    int status = PyList_Insert(list, list_position(list, sub), (PyObject *)sub);
    if (status < 0 && PyList_GET_SIZE(list) == 0) {
        PyObject *exc = aeb_take_exception();
        (void)list_forget(bus, key, listed);
        aeb_restore_exception_steal(exc);
    }
    Py_DECREF(list);
    return status;
}

/* Takes a subscription out again, from where it is listed. */
static void
list_discard(aeb_bus *bus, aeb_subscription *sub, Py_ssize_t i_key)
{
    PyObject *listed = PyTuple_GET_ITEM(sub->listed, i_key);
    PyObject *list = PyDict_GetItemWithError(bus->lists, listed);
    Py_ssize_t i = list == NULL ? 0 : list_position(list, sub);
    if (list == NULL || i == PyList_GET_SIZE(list) || list_item(list, i) != sub) {
        return;
    }
    bus->plans_version++;
    int status = PyList_GET_SIZE(list) == 1
                     ? list_forget(bus, PyTuple_GET_ITEM(sub->keys, i_key), listed)
                     : PyList_SetSlice(list, i, i + 1, NULL);
    if (status < 0) {
        PyErr_Clear(); /* out of memory while shrinking: it stays listed, and is skipped as ended */
    }
}

static int
add_locked(aeb_bus *bus, aeb_subscription *sub)
{
    Py_ssize_t n_keys = PyTuple_GET_SIZE(sub->keys);
    sub->id = ++bus->last_id;
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        if (list_add(bus, sub, i) < 0) {
            PyObject *exc = aeb_take_exception();
            while (i-- > 0) {
                list_discard(bus, sub, i);
            }
            aeb_restore_exception_steal(exc);
            return -1;
        }
    }
    AEB_STORE(sub->bus, bus);
    (void)AEB_ADD(bus->n_active, 1);
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        aeb_plans_drop_locked(bus, PyTuple_GET_ITEM(sub->keys, i));
    }
    return 0;
}

int
aeb_registry_add(aeb_bus *bus, aeb_subscription *sub)
{
    int status;
    sub->listed = aeb_keys_listed(sub->keys);
    if (sub->listed == NULL) {
        return -1;
    }
#ifdef Py_GIL_DISABLED
    sub->bus_reference = PyWeakref_NewRef((PyObject *)bus, NULL);
    if (sub->bus_reference == NULL) {
        return -1;
    }
#endif
    AEB_LOCK(bus);
    status = add_locked(bus, sub);
    AEB_UNLOCK();
    return status;
}

/* Whether it was active, which it is no more. */
static bool
end_locked(aeb_bus *bus, aeb_subscription *sub)
{
    if (!aeb_subscription_is_active(sub)) {
        return false; /* another thread was faster */
    }
    AEB_STORE(sub->bus, NULL);
    (void)AEB_ADD(bus->n_active, -1);
    Py_ssize_t n_keys = PyTuple_GET_SIZE(sub->keys);
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        list_discard(bus, sub, i);
    }
    for (Py_ssize_t i = 0; i < n_keys; i++) {
        aeb_plans_drop_locked(bus, PyTuple_GET_ITEM(sub->keys, i));
    }
    aeb_weak_unwatch(sub);
    return true;
}

bool
aeb_registry_end(aeb_subscription *sub)
{
    bool ended;
    aeb_bus *bus = aeb_subscription_bus(sub);
    if (bus == NULL) {
        return false;
    }
    /* The caller may hold an exception, and what is released below may raise and handle others. */
    PyObject *exc = aeb_take_exception();
    Py_INCREF(sub);
    AEB_LOCK(bus);
    ended = end_locked(bus, sub);
    AEB_UNLOCK();
    Py_DECREF(sub);
    Py_DECREF(bus);
    aeb_restore_exception_steal(exc);
    return ended;
}

bool
aeb_registry_cancel(aeb_subscription *sub)
{
    if (!aeb_registry_end(sub)) {
        return false;
    }
    if (AEB_UNLIKELY(sub->listener && sub->handler != NULL)) {
        PyObject *handler = Py_NewRef(sub->handler), *exc = aeb_take_exception();
        PyObject *answer = PyObject_CallMethod(handler, "unsubscribed", NULL);
        if (answer == NULL) {
            PyErr_WriteUnraisable(handler);
        }
        Py_XDECREF(answer);
        aeb_restore_exception_steal(exc);
        Py_DECREF(handler);
    }
    return true;
}

/* Appends the active ones with the handler to `found`.  Appending allocates no object, so nothing
 * changes the list. */
static int
find_in_list(PyObject *list, PyObject *handler, PyObject *found)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        aeb_subscription *sub = list_item(list, i);
        if (aeb_subscription_is_active(sub) &&
            (handler == NULL || aeb_subscription_has_handler(sub, handler)) &&
            PyList_Append(found, (PyObject *)sub) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
find_locked(aeb_bus *bus, PyObject *key, PyObject *handler)
{
    PyObject *found = PyList_New(0);
    PyObject *lists = NULL;
    if (found == NULL) {
        return NULL;
    }
    if (key != NULL) {
        PyObject *listed = aeb_key_listed(key);
        if (listed == NULL) {
            goto error;
        }
        PyObject *list = Py_XNewRef(PyDict_GetItemWithError(bus->lists, listed));
        Py_DECREF(listed);
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

PyObject *
aeb_registry_find(aeb_bus *bus, PyObject *key, PyObject *handler)
{
    PyObject *found;
    AEB_LOCK(bus);
    found = find_locked(bus, key, handler);
    AEB_UNLOCK();
    return found;
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
    return bus->lists == NULL ? -1 : aeb_plans_init(bus);
}

int
aeb_registry_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->lists);
    return aeb_plans_traverse(bus, visit, arg);
}

void
aeb_registry_clear(aeb_bus *bus)
{
    PyObject *key, *list;
    Py_ssize_t position = 0;
    /* First cut every way back to this bus, then release what can run finalisers. */
    while (bus->lists != NULL && PyDict_Next(bus->lists, &position, &key, &list)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            AEB_STORE(list_item(list, i)->bus, NULL);
            aeb_weak_unwatch(list_item(list, i)); /* releases nothing that runs code */
        }
    }
    bus->n_active = 0;
    bus->plans_version++;
    aeb_patterns_free(bus->patterns);
    bus->patterns = NULL; /* as `lists` is empty before it releases anything */
    if (bus->lists != NULL) {
        PyDict_Clear(bus->lists);
    }
    if (bus->plans != NULL) {
        aeb_plans_drop_all_locked(bus);
    }
}

void
aeb_registry_free(aeb_bus *bus)
{
    aeb_registry_clear(bus);
    Py_CLEAR(bus->lists);
    aeb_plans_free(bus);
}

int
aeb_registry_init_types(PyObject *module, aeb_state *state)
{
    if (aeb_subscription_init_type(module, state, subscription_methods) < 0) {
        return -1;
    }
    if (aeb_counter_init_type(module, state) < 0) {
        return -1;
    }
    return aeb_plan_init_type(module, state);
}
