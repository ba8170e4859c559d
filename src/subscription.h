/* Subscription: one handler, what it is subscribed to, its options and its counters. */
#ifndef AEB_SUBSCRIPTION_H
#define AEB_SUBSCRIPTION_H

#include "histogram.h"
#include "state.h"

struct aeb_bus;

/* The options of one subscription. */
typedef struct {
    int64_t priority;
    PyObject *where;  /* compiled (see where.h), or NULL; whose reference it is depends */
    double timeout;   /* seconds; 0: none */
    bool has_timeout; /* it was given, be it as none */
    bool once;
    bool envelope;
    bool offload;
    bool weak;
    bool guard;    /* isolate=False */
    bool listener; /* the handler is a Listener of _listener.py */
} aeb_subscription_options;

typedef struct {
    PyObject_HEAD
    /* Borrowed.  Non-NULL exactly while the subscription is active: a bus that dies, and every way
     * of ending a subscription, sets it to NULL before anything else can run.  Those who do not hold
     * the bus must not follow it: see aeb_subscription_bus(). */
    struct aeb_bus *AEB_SHARED bus;
#ifdef Py_GIL_DISABLED
    PyObject *bus_reference; /* a weak reference to the bus, once it has one */
#endif
    PyObject *handler; /* a weak one: a weak reference to it, or to the object of a method */
    PyObject *keys;    /* tuple of exact str and classes */
    PyObject *listed;  /* what the registry has them under, once it has: see aeb_keys_listed() */
    PyObject *where;   /* compiled, see where.h, or NULL */
    /* Of a weak one, else NULL: see weak.c. */
    PyObject *weak_function; /* a weak reference to the function of a method, or NULL */
    PyObject *weak_name;     /* the handler's qualified name */
    PyObject *watch;         /* weak references whose callback ends the subscription */
    PyObject *watch_function;
    int64_t id;
    int64_t priority;
    double timeout; /* seconds that an async delivery may take; 0: any */
    AEB_SHARED uint64_t calls;
    AEB_SHARED uint64_t failures;
    bool once;
    bool envelope;
    bool offload;
    bool is_async; /* calling the handler makes a coroutine, or it is offloaded: it gets a task */
    bool weak;
    bool guard;          /* what it raises propagates to the emitter */
    bool careful;        /* its plans need AEB_PLAN_CAREFUL */
    bool listener;       /* the handler is a Listener of _listener.py */
    bool needs_delivery; /* it has an option that the lean way of starter.c does not know */
    aeb_histogram *AEB_SHARED latency; /* its bus's, once it was measured: see timing.c; or NULL */
    PyObject *task_event;              /* str: the event that task_name is for, or NULL */
    PyObject *task_name;               /* what aeb_subscription_task_name() has last returned */
    PyObject *weakrefs;
} aeb_subscription;

static inline bool
aeb_subscription_is_active(const aeb_subscription *sub)
{
    return AEB_LOAD(sub->bus) != NULL;
}

/* The bus of an active subscription, a new reference; NULL when it has ended. */
static inline struct aeb_bus *
aeb_subscription_bus(aeb_subscription *sub)
{
#ifdef Py_GIL_DISABLED
    /* The bus may be dying in another thread, and a weak reference is what can tell. */
    return aeb_subscription_is_active(sub) ? (struct aeb_bus *)aeb_weakref_get(sub->bus_reference)
                                           : NULL;
#else
    return (struct aeb_bus *)Py_XNewRef((PyObject *)sub->bus);
#endif
}

/* How plans are sorted: by priority, then by order of registration. */
static inline bool
aeb_subscription_before(const aeb_subscription *a, const aeb_subscription *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->id < b->id;
}

/* The type's methods come from the registry, which lies above this room: ending a subscription is
 * its business. */
int aeb_subscription_init_type(PyObject *module, aeb_state *state, PyMethodDef *methods);

/* A new inactive Subscription; `keys` is a tuple of normalised keys.  TypeError when `handler` cannot be
 * one: not callable, a function whose call would run nothing, or an async one to be offloaded. */
aeb_subscription *aeb_subscription_new(aeb_state *state, PyObject *keys, PyObject *handler,
                                       const aeb_subscription_options *options);

/* 1 when calling `callable` makes a coroutine, 0 when not, -1 with an exception. */
int aeb_is_coroutine_function(PyObject *callable);

/* Whether two callables are the same one.  Never calls an __eq__ of theirs. */
bool aeb_same_handler(PyObject *a, PyObject *b);

/* Whether this is the subscription's handler.  Never calls a handler's __eq__. */
bool aeb_subscription_has_handler(aeb_subscription *sub, PyObject *handler);

/* The handler, a new reference; NULL, with or without an exception, when it was held weakly and is
 * gone. */
PyObject *aeb_subscription_handler(aeb_subscription *sub);

/* Whether it is a functools.partial: 1, 0 or -1. */
int aeb_is_partial(PyObject *callable);

/* A handler's qualified name for logs, from its own parts or else its type: never its repr().
 * A new str; NULL only for errors that must propagate. */
PyObject *aeb_handler_name(PyObject *handler);

/* The same of a subscription's handler, also when it was held weakly and is gone. */
PyObject *aeb_subscription_handler_name(aeb_subscription *sub);

/* The qualified name of a class, as exact str.  Runs no Python code, not that of a metaclass
 * either.  A new reference, or NULL. */
PyObject *aeb_class_name(PyTypeObject *type);

/* The str that a class has its qualified name in, borrowed; NULL where it has none of its own. */
static inline PyObject *
aeb_class_stored_name(PyTypeObject *type)
{
    return PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) ? aeb_heap_type_qualname(type) : NULL;
}

/* The name of a task that runs the handler for an event: "event -> handler".  A new reference. */
PyObject *aeb_subscription_task_name(aeb_subscription *sub, PyObject *event_name);

/* module.name when that module has been imported already: *found is a new reference, or NULL where there
 * is none.  0 or -1. */
int aeb_loaded_attribute(const char *module_name, const char *name, PyObject **found);

/* The value of an enum member, a new reference; NULL, with or without an exception, when `obj` is
 * none. */
PyObject *aeb_enum_value(PyObject *obj);

/* Clears the pending exception when it is an Exception and returns 0; else leaves it and returns -1
 * (KeyboardInterrupt and its like are not ours to swallow). */
int aeb_clear_ordinary_exception(void);

/* An attribute of an object we do not trust: *result is a new reference, or NULL when there is none
 * or reading it failed.  -1 only for errors that must propagate.  `obj` may be the class of an object,
 * which the code that this runs can give another class. */
int aeb_get_attribute(PyObject *obj, const char *name, PyObject **result);

#endif
