/*
 * priorfit: adapt a pre-trained backbone on the user's machine.
 *
 * Written by cbindgen from src/capi/; a test compares the two. C++ has priorfit.hpp.
 *
 * Handles. Objects are known by handles, which look like pointers and are numbers: never read
 * through one, never compare it with an address. Each is freed by its own function, once; a freed
 * handle, or one of another kind, is INVALID_HANDLE wherever it is passed. Objects do not change,
 * but for jobs, so that they may be freed while work that was given them goes on.
 *
 * Errors. Every function that can fail returns a status. `error` may be null; if not, it becomes
 * null, or a new error that the host frees. Results become null where a call fails. Whatever
 * fails, what the host had before it has still.
 *
 * Memory. Nothing that a host passes is kept after the call, but for a callback's `user`. Results
 * go into buffers of the host. Texts are UTF-8 and end with a zero byte; a function that writes
 * one leaves its length without that byte in `length`, and fails with BUFFER_SIZE where it has not
 * that many bytes and one more; with a null buffer of capacity 0 it tells the length alone.
 * Pointers to what is written to must differ within a call.
 *
 * Threads. Every function may be called from any thread, and with the same handle from several at
 * once. None waits for a job but priorfit_job_wait and priorfit_job_join, which are refused in a
 * progress callback (WRONG_THREAD). Data that other threads write to must not be passed.
 *
 * Signals, environment and standard streams are left alone; a bug of the library is INTERNAL, with
 * what Rust says of it on the standard error stream.
 */
