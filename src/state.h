/* The per-module state: everything an interpreter that imports the module owns.
 *
 * There is no process-global mutable object, so each subinterpreter has its own types, strings and
 * look-ups.  Objects of our types cache a pointer to the state; it outlives them, because each of
 * them holds its type, the type its module, and the module its state.
 */
#ifndef AEB_STATE_H
#define AEB_STATE_H

#include "compat.h"

/* The object fields of the state.  Visiting and clearing are derived from this one list. */
#define AEB_STATE_TYPES(X)                                                                         \
    X(bus_type)                                                                                    \
    X(subscription_type)                                                                           \
    X(event_type)                                                                                  \
    X(plan_type)                                                                                   \
    X(counter_type)                                                                                \
    X(registrar_type)                                                                              \
    X(emission_type)                                                                               \
    X(emitter_type)                                                                                \
    X(outcome_type)                                                                                \
    X(handler_task_type)                                                                           \
    X(lazy_task_type) /* made at first use, where there can be one */

/* Filled at first use: importing agent_event_bus imports neither asyncio nor logging. */
#define AEB_STATE_IMPORTS(X)                                                                       \
    X(default_logger)                                                                              \
    X(cancelled_error)                                                                             \
    X(task_class)                                                                                  \
    X(plain_loop_type) /* the last type of loop that keeps its factory where asyncio does */       \
    X(get_running_loop)                                                                            \
    X(current_task)                                                                                \
    X(current_handler)                                                                             \
    X(current_tasks)                                                                               \
    X(no_loop)                                                                                     \
    X(no_loop_error)                                                                               \
    X(blank_args)                                                                                  \
    X(blank_kwargs)                                                                                \
    X(run_to_completion)                                                                           \
    X(offloaded)                                                                                   \
    X(unknown_event)

#define AEB_STATE_CONSTANTS(X)                                                                     \
    X(any_key)                                                                                     \
    X(task_kwnames)                                                                                \
    X(eager_task_kwnames)                                                                          \
    X(log_kwnames)

/* Interned attribute and method names, one line each: field, text.  A string made for each use would
   also push another name out of the interpreter's cache of methods, and be kept there. */
#define AEB_STATE_STRINGS(X)                                                                       \
    X(str_asyncio_future_blocking, "_asyncio_future_blocking")                                     \
    X(str_add_done_callback, "add_done_callback")                                                  \
    X(str_call_soon, "call_soon")                                                                  \
    X(str_call_soon_threadsafe, "call_soon_threadsafe")                                            \
    X(str_callbacks, "_callbacks")                                                                 \
    X(str_cancel, "cancel")                                                                        \
    X(str_cancel_message, "_cancel_message")                                                       \
    X(str_cancelling, "cancelling")                                                                \
    X(str_close, "close")                                                                          \
    X(str_context, "context")                                                                      \
    X(str_create_future, "create_future")                                                          \
    X(str_create_task, "create_task")                                                              \
    X(str_done, "done")                                                                            \
    X(str_dropped, "dropped")                                                                      \
    X(str_eager_start, "eager_start")                                                              \
    X(str_error, "error")                                                                          \
    X(str_event_name, "event_name")                                                                \
    X(str_exception, "exception")                                                                  \
    X(str_expire, "_expire")                                                                       \
    X(str_get_task_factory, "get_task_factory")                                                    \
    X(str_handler_name, "handler_name")                                                            \
    X(str_log_destroy_pending, "_log_destroy_pending")                                             \
    X(str_log_traceback, "_log_traceback")                                                         \
    X(str_loop, "loop")                                                                            \
    X(str_must_cancel, "_must_cancel")                                                             \
    X(str_name, "name")                                                                            \
    X(str_set_exception, "set_exception")                                                          \
    X(str_set_name, "set_name")                                                                    \
    X(str_set_result, "set_result")                                                                \
    X(str_start, "_start")                                                                         \
    X(str_task_factory, "_task_factory")                                                           \
    X(str_throw, "throw")                                                                          \
    X(str_time, "time")                                                                            \
    X(str_uncancel, "uncancel")                                                                    \
    X(str_warning, "warning")

/* One thread that is inside an emission, and how many emissions deep (see dispatch.h). */
typedef struct {
    PyThreadState *thread;
    Py_ssize_t depth;
} aeb_emitting;

/* How many unused objects of a kind are kept for reuse. */
#define AEB_MAX_FREE 16

struct aeb_handler_task;

typedef struct aeb_state {
#define AEB_DECLARE_TYPE(name) PyTypeObject *name;
#define AEB_DECLARE_OBJECT(name) PyObject *AEB_SHARED name;
#define AEB_DECLARE_STRING(name, text) PyObject *name;
    AEB_STATE_TYPES(AEB_DECLARE_TYPE)
    AEB_STATE_IMPORTS(AEB_DECLARE_OBJECT)
    AEB_STATE_CONSTANTS(AEB_DECLARE_OBJECT)
    AEB_STATE_STRINGS(AEB_DECLARE_STRING)
#undef AEB_DECLARE_TYPE
#undef AEB_DECLARE_OBJECT
#undef AEB_DECLARE_STRING
#ifdef Py_GIL_DISABLED
    PyMutex emitting_mutex; /* guards these three */
#endif
    aeb_emitting *emitting; /* owned array */
    AEB_SHARED Py_ssize_t n_emitting;
    Py_ssize_t emitting_capacity;
    AEB_SHARED long pid;     /* of this process, or 0 while it is being forked: see aeb_process() */
    Py_ssize_t context_word; /* where a context holds its variables, or 0: see lazy_load.c */
    AEB_SHARED Py_ssize_t n_live; /* async handlers that have begun and are not over */

    /* Objects kept for reuse, all unknown to anybody else; none without a GIL. */
    PyObject *free_tasks[AEB_MAX_FREE]; /* strong: see lazy_task.c */
    Py_ssize_t n_free_tasks;
    struct aeb_handler_task *free_deliveries[AEB_MAX_FREE]; /* strong */
    Py_ssize_t n_free_deliveries;
    void *free_emissions[AEB_MAX_FREE]; /* memory of dead ones: see emission.c */
    Py_ssize_t n_free_emissions;
    PyObject *stop_iterations[AEB_MAX_FREE]; /* strong, by value: see coroutine.c */
} aeb_state;

extern PyModuleDef aeb_module_def;

/* The state of the module that defined `type` or a base of it; NULL with TypeError. */
static inline aeb_state *
aeb_state_of_type(PyTypeObject *type)
{
    PyObject *module = aeb_module_of_type(type, &aeb_module_def);
    return module == NULL ? NULL : (aeb_state *)PyModule_GetState(module);
}

/* The process that this is.  Asking the system takes longer than what is done with the answer, so it
 * is asked once, and each time while the process is being forked: callbacks of os.register_at_fork()
 * that run then may use a bus, in either process. */
static inline long
aeb_process(const aeb_state *state)
{
    long pid = AEB_LOAD(state->pid);
    return AEB_LIKELY(pid != 0) ? pid : aeb_getpid();
}

/* A new zeroed object of one of our types, or NULL.  A collection that clears the module clears its
 * types as well, and something that it finalises later may still ask for one. */
static inline void *
aeb_type_alloc(PyTypeObject *type, Py_ssize_t n_items)
{
    if (AEB_UNLIKELY(type == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "agent_event_bus has been unloaded");
        return NULL;
    }
    return type->tp_alloc(type, n_items);
}

/* Creates a heap type, stores it in *slot and, when `public`, in the module.  0 or -1. */
int aeb_state_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot, bool public);

#endif
