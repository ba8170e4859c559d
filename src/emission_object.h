/* The layout of an emission, and its steps: emission.c has the steps, emission_type.c the type. */
#ifndef AEB_EMISSION_OBJECT_H
#define AEB_EMISSION_OBJECT_H

#include "emission.h"
#include "starter.h"

typedef enum {
    EMISSION_CREATED,
    EMISSION_STARTING, /* the first send is on the stack */
    EMISSION_WAITING,
    EMISSION_DONE,
} emission_status;

typedef struct {
    PyObject_HEAD
    aeb_bus *bus; /* strong */
    PyObject *name;
    PyObject *payload;
    PyObject *deliveries; /* list of HandlerTask to run instead of a plan, or NULL */
    PyObject *children;   /* list of HandlerTask that did not finish at once, or NULL */
    PyObject *outcomes;   /* list that collects how the handlers end, or NULL */
    PyObject *loop;
    PyObject *waiter;
    PyObject *fatal;
    PyObject *thrown;
    aeb_handler_task *parent; /* strong: the delivery whose handler awaits this, or NULL */
    Py_ssize_t base_depth;    /* of handlers waiting above this */
    Py_ssize_t n_unfinished;
    Py_ssize_t n_called;
    emission_status status;
    bool nested;
    bool collects;           /* collect_async has made it */
    bool published;          /* by publish_async */
    struct aeb_watch *watch; /* owned, until it is over, on a bus with slow_after; or NULL */
    PyObject *weakrefs;

    /* Of the first step alone, and set up there.  Not on the C stack: a handler may switch to another
     * greenlet, whose frames then lie there, while its blank task points to the starter. */
    aeb_occasion occasion;
    aeb_starter starter;
} aeb_emission;

/* One step: sends `value`.  *result is what it yields; at the end it is left alone, and the answer
 * is the number of handlers called. */
PySendResult aeb_emission_step(aeb_emission *self, PyObject *value, PyObject **result);

/* The same, throwing an exception. */
PySendResult aeb_emission_throw(aeb_emission *self, PyObject *exc, PyObject **result);

/* Whether an error that ends it is the failure of a guard. */
bool aeb_emission_is_guards(const aeb_emission *self, PyObject *fatal);

/* Ends it: unfinished handlers are cancelled and not awaited.  0 or -1. */
int aeb_emission_close(aeb_emission *self);

#endif
