/*
 * What a host may do wrong, and what it is told: every mistake is a status and a message, and the
 * library works on. `misuse FILES OUT` prints what is not as it should be.
 */
#define _POSIX_C_SOURCE 200809L

#include <priorfit.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int wrong;

/* Checks a status, and that an error comes with its own status and a message that holds `words`. */
static void expect_at(int line, priorfit_status got, priorfit_error *error, priorfit_status wanted,
                      const char *words)
{
    const char *message = error ? priorfit_error_message(error) : "";
    int is_right = got == wanted && (error != NULL) == (wanted != PRIORFIT_STATUS_OK) &&
                   (!error || (priorfit_error_status(error) == wanted && strstr(message, words)));
    if (!is_right) {
        printf("line %d: status %d, '%s'; expected %d, '%s'\n", line, (int)got, message,
               (int)wanted, words);
        wrong = 1;
    }
    priorfit_error_free(error);
}

#define EXPECT(wanted, words, call)                                                                \
    do {                                                                                           \
        priorfit_error *error = (priorfit_error *)(uintptr_t)1;                                    \
        priorfit_status got = call;                                                                \
        expect_at(__LINE__, got, error, PRIORFIT_STATUS_##wanted, words);                          \
    } while (0)
#define OK(call) EXPECT(OK, "", call)
#define THAT(fact)                                                                                 \
    do {                                                                                           \
        if (!(fact)) {                                                                             \
            printf("line %d: not so: %s\n", __LINE__, #fact);                                      \
            wrong = 1;                                                                             \
        }                                                                                          \
    } while (0)

static const char QUICK[] =
    "{\"settings\": {\"steps\": 1, \"strength\": 1.0, \"head_variance\": 1.0, \"gate\": false,"
    " \"probe_steps\": 4}, \"input\": {\"normalise\": \"none\"},"
    " \"budget\": {\"threads\": 1, \"low_priority\": false}}";
static const char ENDLESS[] =
    "{\"settings\": {\"steps\": 100000000, \"strength\": 1.0, \"head_variance\": 1.0,"
    " \"gate\": false, \"probe_steps\": 4}, \"input\": {\"normalise\": \"none\"},"
    " \"budget\": {\"threads\": 1, \"low_priority\": false}}";

static priorfit_engine *engine;
static priorfit_model *model;
static priorfit_prior *prior;
static priorfit_dataset *train;

static const char *in(const char *folder, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void sleep_a_little(void)
{
    struct timespec time = {.tv_nsec = 10 * 1000 * 1000};
    nanosleep(&time, NULL);
}

/* Waits for something that comes soon; a minute, so that a slow machine is no error. */
static int comes(atomic_int *counter)
{
    for (int i = 0; i < 6000 && !atomic_load(counter); i++)
        sleep_a_little();
    return atomic_load(counter);
}

static void handles(const char *files)
{
    priorfit_model *freed = NULL, *none = NULL;
    size_t n = 0;
    OK(priorfit_model_load(in(files, "backbone.onnx"), &freed, &error));
    OK(priorfit_model_free(freed, &error));
    EXPECT(INVALID_HANDLE, "was freed before", priorfit_model_free(freed, &error));
    EXPECT(INVALID_HANDLE, "was freed before",
           priorfit_model_describe(freed, NULL, 0, &n, &error));
    OK(priorfit_model_free(NULL, &error));
    EXPECT(NULL_POINTER, "`model` is null", priorfit_model_describe(NULL, NULL, 0, &n, &error));
    EXPECT(INVALID_HANDLE, "never was a handle",
           priorfit_model_describe((priorfit_model *)(void *)&n, NULL, 0, &n, &error));
    EXPECT(INVALID_HANDLE, "another kind, prior; expected model",
           priorfit_model_describe((priorfit_model *)(void *)prior, NULL, 0, &n, &error));
    EXPECT(INVALID_HANDLE, "another kind", priorfit_model_free((priorfit_model *)(void *)prior,
                                                               &error));
    OK(priorfit_prior_describe(prior, NULL, 0, &n, &error));
    /* What is not wanted may be null, and what is needed is asked for. */
    THAT(priorfit_model_load(in(files, "nothing.onnx"), &none, NULL) == PRIORFIT_STATUS_IO);
    THAT(none == NULL);
    EXPECT(NULL_POINTER, "`model` is null", priorfit_model_load("x", NULL, &error));
    EXPECT(NULL_POINTER, "`file` is null", priorfit_model_load(NULL, &none, &error));
    EXPECT(NULL_POINTER, "`length` is null", priorfit_prior_describe(prior, NULL, 0, NULL, &error));
    EXPECT(NULL_POINTER, "`len` is null", priorfit_dataset_len(train, NULL, &error));
    THAT(priorfit_error_status(NULL) == PRIORFIT_STATUS_NULL_POINTER);
    THAT(strstr(priorfit_error_message(NULL), "no such error"));
    THAT(priorfit_error_free(NULL) == PRIORFIT_STATUS_OK);
}

static void texts(const char *files)
{
    char small[8] = "before", enough[1 << 16];
    size_t length = 0;
    priorfit_prior *none = NULL;
    priorfit_engine *other = NULL;
    EXPECT(IO, "nothing.safetensors",
           priorfit_prior_load(in(files, "nothing.safetensors"), &none, &error));
    EXPECT(MALFORMED, "backbone.onnx",
           priorfit_prior_load(in(files, "backbone.onnx"), &none, &error));
    EXPECT(INVALID_ARGUMENT, "UTF-8", priorfit_prior_load("\xff\xfe", &none, &error));
    EXPECT(INVALID_ARGUMENT, "empty", priorfit_prior_load("", &none, &error));
    EXPECT(NULL_POINTER, "`device`", priorfit_engine_open(NULL, 0, &other, &error));
    THAT(none == NULL && other == NULL);
    EXPECT(BUFFER_SIZE, "`buffer` has 8 bytes",
           priorfit_default_options(small, sizeof small, &length, &error));
    THAT(strcmp(small, "before") == 0 && length > sizeof small && length < sizeof enough);
    EXPECT(NULL_POINTER, "`buffer`", priorfit_default_options(NULL, 8, &length, &error));
    size_t expected = length;
    EXPECT(BUFFER_SIZE, "expected at least",
           priorfit_default_options(enough, expected, &length, &error));
    OK(priorfit_default_options(enough, expected + 1, &length, &error));
    THAT(length == expected && strlen(enough) == length && strstr(enough, "\"steps\""));
}

static void images(void)
{
    static const uint8_t pixels[2 * 4 * 4 + 1];
    static const float numbers[2] = {0.5f, 1.5f};
    const uint32_t labels[2] = {0, 1};
    const char *names[2] = {"one", "two"};
    priorfit_dataset *data = NULL;
    size_t n = 0;
    priorfit_images x = {pixels, 32, 2, 1, 4, 4, PRIORFIT_ELEMENT_U8, PRIORFIT_LAYOUT_NCHW};
    priorfit_targets y = {labels, sizeof labels, names, 2, PRIORFIT_TARGET_TYPE_CLASSES};
#define NEW(wanted, words) EXPECT(wanted, words, priorfit_dataset_new(&x, &y, &data, &error))
    NEW(OK, "");
    OK(priorfit_dataset_len(data, &n, &error));
    THAT(n == 2);
    OK(priorfit_dataset_free(data, &error));
    x.bytes = 31;
    NEW(BUFFER_SIZE, "`pixels` has 31 bytes; expected 32");
    THAT(data == NULL);
    x.bytes = 32, x.count = SIZE_MAX / 2;
    NEW(INVALID_ARGUMENT, "`values`: so many numbers do not fit");
    x.height = SIZE_MAX;
    EXPECT(INVALID_ARGUMENT, "do not fit in memory",
           priorfit_dataset_new(&x, NULL, &data, &error));
    x.count = 2, x.height = 4, x.pixels = NULL;
    NEW(NULL_POINTER, "`pixels`");
    x.pixels = pixels, x.layout = 7;
    NEW(INVALID_ARGUMENT, "`layout` is 7");
    x.layout = PRIORFIT_LAYOUT_NHWC, x.element = 9;
    NEW(INVALID_ARGUMENT, "`element` is 9");
    x.element = PRIORFIT_ELEMENT_U8, y.kind = 11;
    NEW(INVALID_ARGUMENT, "`kind` is 11");
    y.kind = PRIORFIT_TARGET_TYPE_CLASSES, y.name_count = 1;
    NEW(MISMATCH, "label 1 of example 1");
    y.name_count = SIZE_MAX;
    NEW(INVALID_ARGUMENT, "names; expected at most");
    y.name_count = 1, y.kind = PRIORFIT_TARGET_TYPE_NUMBERS, y.values = numbers;
    y.bytes = sizeof numbers, names[0] = NULL;
    NEW(NULL_POINTER, "`names[..]`");
    y.names = NULL;
    NEW(OK, "");
    EXPECT(INVALID_ARGUMENT, "labels", priorfit_dataset_labels(data, NULL, 0, &error));
    OK(priorfit_dataset_free(data, &error));
    /* Memory need not be aligned. */
    char room[1 + sizeof labels];
    memcpy(room + 1, labels, sizeof labels);
    y = (priorfit_targets){room + 1, sizeof labels, NULL, 2, PRIORFIT_TARGET_TYPE_CLASSES};
    NEW(OK, "");
    uint32_t found[3] = {9, 9, 9};
    EXPECT(BUFFER_SIZE, "`labels` has 3 numbers; expected 2",
           priorfit_dataset_labels(data, found, 3, &error));
    OK(priorfit_dataset_labels(data, found, 2, &error));
    THAT(found[0] == 0 && found[1] == 1 && found[2] == 9);
    OK(priorfit_dataset_free(data, &error));
    EXPECT(NULL_POINTER, "`images`", priorfit_dataset_new(NULL, NULL, &data, &error));
    EXPECT(INVALID_ARGUMENT, "zero", priorfit_dataset_few(train, 1, 0, &data, NULL, &error));
}

/* What a callback's `user` points to. */
struct host {
    atomic_int calls, released;
    int32_t answer;
    priorfit_job *job;
    sem_t *hang;
    priorfit_status joined;
};

static int32_t tell(const priorfit_progress *progress, void *user)
{
    struct host *host = user;
    (void)progress;
    atomic_fetch_add(&host->calls, 1);
    if (host->hang)
        sem_wait(host->hang);
    if (host->job) {
        priorfit_posterior *posterior = NULL;
        host->joined = priorfit_job_join(host->job, &posterior, NULL, NULL);
    }
    return host->answer;
}

static void let_go(void *user)
{
    atomic_fetch_add(&((struct host *)user)->released, 1);
}

static priorfit_adaptation adaptation(const char *options, struct host *host)
{
    priorfit_adaptation a = {engine, model, prior, train, NULL, options, {NULL, NULL, NULL}};
    if (host)
        a.progress = (priorfit_callback){tell, host, let_go};
    return a;
}

static void starts(void)
{
    struct host host = {0};
    priorfit_job *job = NULL;
    int refused = 0;
#define START(wanted, words)                                                                       \
    do {                                                                                           \
        EXPECT(wanted, words, priorfit_job_start(&a, &job, &error));                               \
        THAT(atomic_load(&host.released) == ++refused && job == NULL);                             \
    } while (0)
    priorfit_adaptation a = adaptation("{\"settings\": {\"step\": 1}}", &host);
    START(INVALID_ARGUMENT, "`step`");
    a.options = "{]";
    START(INVALID_ARGUMENT, "options");
    a.options = "{\"budget\": {\"duty_cycle\": 7}}";
    START(INVALID_ARGUMENT, "duty cycle");
    a.options = "{\"features\": \"no such layer\"}";
    START(INVALID_ARGUMENT, "no such layer");
    a = adaptation(QUICK, &host), a.engine = NULL;
    START(NULL_POINTER, "`engine`");
    a = adaptation(QUICK, &host), a.prior = (priorfit_prior *)(void *)model;
    START(INVALID_HANDLE, "expected prior");
    a = adaptation(QUICK, &host);
    EXPECT(NULL_POINTER, "`job`", priorfit_job_start(&a, NULL, &error));
    EXPECT(NULL_POINTER, "`adaptation`", priorfit_job_start(NULL, &job, &error));
    THAT(atomic_load(&host.calls) == 0);
}

static priorfit_posterior *quick(struct host *host, priorfit_job **job)
{
    priorfit_posterior *posterior = NULL;
    priorfit_adaptation a = adaptation(QUICK, host);
    OK(priorfit_job_start(&a, job, &error));
    OK(priorfit_job_join(*job, &posterior, NULL, &error));
    return posterior;
}

static void callbacks(void)
{
    /* One that fails is not called again, and harms nothing. */
    static struct host failing = {.answer = 77};
    static struct host stopping = {.answer = PRIORFIT_STOP};
    static struct host hanging, waiting;
    static sem_t semaphore;
    priorfit_job *job = NULL;
    priorfit_progress report;
    char text[1 << 16];
    size_t length = 0;
    priorfit_posterior *posterior = quick(&failing, &job);
    THAT(comes(&failing.released) == 1 && atomic_load(&failing.calls) == 1);
    OK(priorfit_job_poll(job, &report, &error));
    THAT(report.state == PRIORFIT_JOB_STATE_ENDED && report.warnings == 1);
    OK(priorfit_job_describe(job, text, sizeof text, &length, &error));
    THAT(strstr(text, "answered 77") && strstr(text, "\"ending\":\"completed\""));
    EXPECT(INVALID_ARGUMENT, "joined before", priorfit_job_join(job, &posterior, NULL, &error));
    THAT(posterior == NULL);
    OK(priorfit_job_free(job, &error));

    /* One that asks for a stop gets the last good state. */
    priorfit_adaptation a = adaptation(ENDLESS, &stopping);
    OK(priorfit_job_start(&a, &job, &error));
    priorfit_status joined = priorfit_job_join(job, &posterior, NULL, NULL);
    THAT(joined == PRIORFIT_STATUS_OK || joined == PRIORFIT_STATUS_CANCELLED);
    OK(priorfit_job_poll(job, &report, &error));
    THAT(report.stopped_by == PRIORFIT_STOP_CAUSE_CANCELLED);
    priorfit_posterior_free(posterior, NULL);
    OK(priorfit_job_free(job, &error));

    /* One that never returns holds up nothing. */
    sem_init(&semaphore, 0, 0);
    hanging.hang = &semaphore;
    posterior = quick(&hanging, &job);
    THAT(posterior != NULL && atomic_load(&hanging.released) == 0);
    OK(priorfit_posterior_free(posterior, &error));
    OK(priorfit_job_free(job, &error));
    sem_post(&semaphore);
    for (int i = 0; i < 100; i++)
        sem_post(&semaphore);
    THAT(comes(&hanging.released) == 1);

    /* One that waits for its own job is refused. */
    a = adaptation(ENDLESS, NULL);
    OK(priorfit_job_start(&a, &job, &error));
    waiting.job = job;
    a = adaptation(QUICK, &waiting);
    priorfit_job *second = NULL;
    OK(priorfit_job_start(&a, &second, &error));
    OK(priorfit_job_join(second, &posterior, NULL, &error));
    THAT(comes(&waiting.released) == 1 && waiting.joined == PRIORFIT_STATUS_WRONG_THREAD);
    OK(priorfit_posterior_free(posterior, &error));
    OK(priorfit_job_free(second, &error));
    EXPECT(CANCELLED, "freed before it had ended", priorfit_job_free(job, &error));
}

/* Waits until a job is at something. */
static int is_at(priorfit_job *job, priorfit_job_state wanted)
{
    priorfit_progress report = {.state = PRIORFIT_JOB_STATE_ENDED};
    for (int i = 0; i < 6000 && !priorfit_job_poll(job, &report, NULL); i++) {
        if (report.state == wanted)
            return 1;
        sleep_a_little();
    }
    return 0;
}

/* What the host tells of its machine holds a job, and its user may override that. */
static void conditions(void)
{
    priorfit_job *job = NULL;
    priorfit_adaptation a = adaptation(ENDLESS, NULL);
    OK(priorfit_job_start(&a, &job, &error));
    priorfit_conditions now = {.power = PRIORFIT_POWER_BATTERY, .charge = 0.1f};
    OK(priorfit_job_set_conditions(job, &now, &error));
    THAT(is_at(job, PRIORFIT_JOB_STATE_BATTERY));
    OK(priorfit_job_run_regardless(job, true, &error));
    THAT(is_at(job, PRIORFIT_JOB_STATE_RUNNING));
    OK(priorfit_job_run_regardless(job, false, &error));
    now = (priorfit_conditions){.heat = PRIORFIT_HEAT_CRITICAL};
    OK(priorfit_job_set_conditions(job, &now, &error));
    THAT(is_at(job, PRIORFIT_JOB_STATE_HEAT));
    /* What cannot be leaves what was told before. */
    now.heat = 99;
    EXPECT(INVALID_ARGUMENT, "`heat` is 99", priorfit_job_set_conditions(job, &now, &error));
    now = (priorfit_conditions){.power = PRIORFIT_POWER_BATTERY, .charge = 10.0f};
    EXPECT(INVALID_ARGUMENT, "`charge` is 10", priorfit_job_set_conditions(job, &now, &error));
    now = (priorfit_conditions){.frame_seconds = -1.0f};
    EXPECT(INVALID_ARGUMENT, "`frame_seconds`", priorfit_job_set_conditions(job, &now, &error));
    EXPECT(NULL_POINTER, "`conditions`", priorfit_job_set_conditions(job, NULL, &error));
    THAT(is_at(job, PRIORFIT_JOB_STATE_HEAT));
    now = (priorfit_conditions){.presence = PRIORFIT_PRESENCE_IDLE};
    OK(priorfit_job_set_conditions(job, &now, &error));
    THAT(is_at(job, PRIORFIT_JOB_STATE_RUNNING));
    EXPECT(CANCELLED, "freed before it had ended", priorfit_job_free(job, &error));
    EXPECT(INVALID_HANDLE, "was freed", priorfit_job_run_regardless(job, true, &error));
    EXPECT(INVALID_HANDLE, "was freed", priorfit_job_set_conditions(job, &now, &error));
}

static void *join(void *job)
{
    static priorfit_posterior *posterior;
    static priorfit_status status;
    status = priorfit_job_join(job, &posterior, NULL, NULL);
    priorfit_posterior_free(posterior, NULL);
    return &status;
}

static void drops(void)
{
    static struct host host;
    priorfit_job *job = NULL;
    priorfit_adaptation a = adaptation(ENDLESS, &host);
    bool ended = true;
    OK(priorfit_job_start(&a, &job, &error));
    THAT(comes(&host.calls) > 0);
    OK(priorfit_job_wait(job, 1, &ended, &error));
    THAT(!ended);
    OK(priorfit_job_pause(job, &error));
    OK(priorfit_job_resume(job, &error));
    EXPECT(CANCELLED, "cancel it, join it", priorfit_job_free(job, &error));
    EXPECT(INVALID_HANDLE, "was freed before", priorfit_job_cancel(job, &error));
    THAT(comes(&host.released) == 1);

    /* A thread that joins it when another frees it gets what there is. */
    pthread_t thread;
    void *status = NULL;
    a = adaptation(ENDLESS, NULL);
    OK(priorfit_job_start(&a, &job, &error));
    pthread_create(&thread, NULL, join, job);
    sleep_a_little();
    priorfit_status freed = priorfit_job_free(job, NULL);
    pthread_join(thread, &status);
    priorfit_status joined = *(priorfit_status *)status;
    THAT(freed == PRIORFIT_STATUS_CANCELLED);
    THAT(joined == PRIORFIT_STATUS_OK || joined == PRIORFIT_STATUS_CANCELLED ||
         joined == PRIORFIT_STATUS_INVALID_HANDLE);
}

/* The same images are predicted alike in either order of their numbers. */
static void layouts(const priorfit_posterior *posterior, size_t width)
{
    enum { COUNT = 2, CHANNELS = 3, SIDE = 16, LEN = COUNT * CHANNELS * SIDE * SIDE };
    static uint8_t bytes[2][LEN];
    static float numbers[2][LEN];
    float predicted[2][COUNT * 16];
    if (width > 16)
        return;
    for (size_t at = 0; at < LEN; at++) {
        size_t x = at % SIDE, y = at / SIDE % SIDE, c = at / (SIDE * SIDE) % CHANNELS;
        size_t n = at / (SIDE * SIDE * CHANNELS);
        size_t other = ((n * SIDE + y) * SIDE + x) * CHANNELS + c;
        bytes[0][at] = bytes[1][other] = (uint8_t)((x * (y + 3 * c) + 57 * n) % 256);
        numbers[0][at] = numbers[1][other] = (float)bytes[0][at] / 255.0f;
    }
    for (uint32_t element = 0; element < 2; element++) {
        for (uint32_t layout = 0; layout < 2; layout++) {
            const void *pixels = element ? (void *)numbers[layout] : (void *)bytes[layout];
            priorfit_images x = {pixels, LEN * (element ? 4 : 1), COUNT, CHANNELS, SIDE, SIDE,
                                 element, layout};
            priorfit_predictions into = {.mean = predicted[layout], .mean_len = COUNT * width};
            priorfit_dataset *data = NULL;
            OK(priorfit_dataset_new(&x, NULL, &data, &error));
            OK(priorfit_posterior_predict(posterior, engine, data, &into, NULL, &error));
            OK(priorfit_dataset_free(data, &error));
        }
        size_t image = width * sizeof predicted[0][0];
        THAT(memcmp(predicted[0], predicted[1], COUNT * image) == 0);
        THAT(memcmp(predicted[0], predicted[0] + width, image) != 0);
    }
}

static void predictions(const char *out)
{
    static struct host stopping = {.answer = PRIORFIT_STOP}, failing = {.answer = -1};
    priorfit_job *job = NULL;
    priorfit_posterior *posterior = quick(NULL, &job), *loaded = NULL;
    OK(priorfit_job_free(job, &error));
    size_t n = 0, width = 0;
    OK(priorfit_dataset_len(train, &n, &error));
    OK(priorfit_posterior_output_len(posterior, &width, &error));
    float *mean = calloc(n * width + 1, sizeof *mean), *again = calloc(n * width, sizeof *again);
    priorfit_predictions into = {.mean = mean, .mean_len = n * width + 1};
#define PREDICT(wanted, words, p, callback)                                                        \
    EXPECT(wanted, words, priorfit_posterior_predict(p, engine, train, &into, callback, &error))
    PREDICT(BUFFER_SIZE, "`mean` has", posterior, NULL);
    into.mean_len = n * width, into.entropy = again, into.entropy_len = n - 1;
    PREDICT(BUFFER_SIZE, "`entropy` has", posterior, NULL);
    into.entropy_len = n;
    into.variance = NULL, into.variance_len = n * width;
    PREDICT(NULL_POINTER, "`variance`", posterior, NULL);
    into.variance_len = 0, into.mean = (float *)(void *)((char *)mean + 1);
    PREDICT(INVALID_ARGUMENT, "aligned", posterior, NULL);
    into.mean = mean;
    EXPECT(NULL_POINTER, "`predictions`",
           priorfit_posterior_predict(posterior, engine, train, NULL, NULL, &error));
    const priorfit_callback stop = {tell, &stopping, let_go}, fail = {tell, &failing, let_go};
    PREDICT(CANCELLED, "stopped", posterior, &stop);
    PREDICT(CANCELLED, "answered -1", posterior, &fail);
    THAT(atomic_load(&stopping.released) == 1 && atomic_load(&failing.released) == 1);
    PREDICT(OK, "", posterior, NULL);
    char name[8];
    OK(priorfit_posterior_output_name(posterior, width - 1, name, sizeof name, &n, &error));
    EXPECT(INVALID_ARGUMENT, "no output",
           priorfit_posterior_output_name(posterior, width, name, sizeof name, &n, &error));

    /* What is saved predicts the same; what cannot be saved is still there. */
    EXPECT(IO, "", priorfit_posterior_save(posterior, in(out, "a-file"), &error));
    EXPECT(IO, "", priorfit_posterior_load(in(out, "a-file"), &loaded, &error));
    OK(priorfit_posterior_save(posterior, in(out, "saved"), &error));
    EXPECT(NULL_POINTER, "file", priorfit_posterior_export(posterior, NULL, &error));
    EXPECT(IO, "", priorfit_posterior_export(posterior, in(out, "a-file/net.onnx"), &error));
    OK(priorfit_posterior_export(posterior, in(out, "exported.onnx"), &error));
    priorfit_model *exported = NULL;
    OK(priorfit_model_load(in(out, "exported.onnx"), &exported, &error));
    OK(priorfit_model_free(exported, &error));
    OK(priorfit_posterior_load(in(out, "saved"), &loaded, &error));
    into = (priorfit_predictions){.mean = again, .mean_len = into.mean_len};
    PREDICT(OK, "", loaded, NULL);
    THAT(memcmp(mean, again, into.mean_len * sizeof *mean) == 0);
    layouts(loaded, width);
    OK(priorfit_posterior_free(loaded, &error));
    OK(priorfit_posterior_free(posterior, &error));
    PREDICT(INVALID_HANDLE, "was freed before", posterior, NULL);
    free(mean);
    free(again);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return EXIT_FAILURE;
    priorfit_dataset *digits = NULL;
    OK(priorfit_engine_open("cpu", 1, &engine, &error));
    OK(priorfit_model_load(in(argv[1], "backbone.onnx"), &model, &error));
    OK(priorfit_prior_load(in(argv[1], "prior.safetensors"), &prior, &error));
    OK(priorfit_dataset_open(in(argv[1], "digits.npz"), &digits, &error));
    OK(priorfit_dataset_few(digits, 7, 1, &train, NULL, &error));
    OK(priorfit_dataset_free(digits, &error));
    handles(argv[1]);
    texts(argv[1]);
    images();
    starts();
    callbacks();
    conditions();
    drops();
    predictions(argv[2]);
    OK(priorfit_dataset_free(train, &error));
    OK(priorfit_prior_free(prior, &error));
    OK(priorfit_model_free(model, &error));
    OK(priorfit_engine_free(engine, &error));
    return wrong;
}
