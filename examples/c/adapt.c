/*
 * Adapts the bundled backbone to a few handwritten digits and predicts as many others, in C.
 *
 *   sh include/install.sh PREFIX
 *   export PKG_CONFIG_PATH=PREFIX/lib/pkgconfig
 *   cc examples/c/adapt.c $(pkg-config --cflags --libs priorfit) -o adapt
 *   LD_LIBRARY_PATH=PREFIX/lib ./adapt models/demo OUT
 */
#include <priorfit.h>

#include <stdio.h>
#include <stdlib.h>

/* Says what failed, and ends the program: the library never does. */
static void check(priorfit_status status, priorfit_error *error)
{
    if (status == PRIORFIT_STATUS_OK)
        return;
    fprintf(stderr, "status %d: %s\n", (int)status, priorfit_error_message(error));
    priorfit_error_free(error);
    exit(EXIT_FAILURE);
}

/* Is called on a thread of the job's. A host would post to its window here. */
static int32_t show(const priorfit_progress *progress, void *user)
{
    unsigned *calls = user;
    *calls += 1;
    if (progress->phase == PRIORFIT_RUN_PHASE_TRAIN && progress->step % 10 == 0)
        fprintf(stderr, "step %u of %u, loss %.3f\n", (unsigned)progress->step,
                (unsigned)progress->steps, progress->loss);
    return PRIORFIT_GO_ON; /* PRIORFIT_STOP would end the job with what it has */
}

/* The share of examples whose likeliest class is theirs. */
static double accuracy(const float *probabilities, const uint32_t *labels, size_t n, size_t classes)
{
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            if (probabilities[i * classes + c] > probabilities[i * classes + best])
                best = c;
        right += best == labels[i];
    }
    return n ? (double)right / (double)n : 0.0;
}

static double measure(const priorfit_posterior *posterior, const priorfit_engine *engine,
                      const priorfit_dataset *data)
{
    size_t n = 0, classes = 0;
    priorfit_error *error = NULL;
    check(priorfit_dataset_len(data, &n, &error), error);
    check(priorfit_posterior_output_len(posterior, &classes, &error), error);
    float *probabilities = calloc(n * classes, sizeof *probabilities);
    uint32_t *labels = calloc(n, sizeof *labels);
    if (!probabilities || !labels)
        exit(EXIT_FAILURE);
    priorfit_predictions into = {.mean = probabilities, .mean_len = n * classes};
    check(priorfit_posterior_predict(posterior, engine, data, &into, NULL, &error), error);
    check(priorfit_dataset_labels(data, labels, n, &error), error);
    double share = accuracy(probabilities, labels, n, classes);
    free(probabilities);
    free(labels);
    return share;
}

static const char *in(const char *folder, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s FILES OUT [EXAMPLES-PER-CLASS] [OPTIONS-JSON]\n", argv[0]);
        return EXIT_FAILURE;
    }
    if (priorfit_abi_version() != PRIORFIT_ABI_VERSION) {
        fprintf(stderr, "this library has another interface\n");
        return EXIT_FAILURE;
    }
    size_t few = argc > 3 ? strtoul(argv[3], NULL, 10) : 20;
    const char *options =
        argc > 4 ? argv[4]
                 : "{\"settings\": {\"steps\": 60},"
                   " \"input\": {\"normalise\": {\"given\": {\"mean\": [0.31], \"std\": [0.37]}}},"
                   " \"budget\": {\"low_priority\": false}}";

    priorfit_error *error = NULL;
    priorfit_engine *engine = NULL;
    priorfit_model *model = NULL;
    priorfit_prior *prior = NULL;
    priorfit_dataset *digits = NULL, *train = NULL, *rest = NULL, *test = NULL;
    check(priorfit_engine_open("cpu", 0, &engine, &error), error);
    check(priorfit_model_load(in(argv[1], "backbone.onnx"), &model, &error), error);
    check(priorfit_prior_load(in(argv[1], "prior.safetensors"), &prior, &error), error);
    check(priorfit_dataset_open(in(argv[1], "digits.npz"), &digits, &error), error);
    check(priorfit_dataset_few(digits, 7, few, &train, &rest, &error), error);
    check(priorfit_dataset_few(rest, 7, few, &test, NULL, &error), error);

    static unsigned calls; /* until it is released, which nobody waits for here */
    priorfit_adaptation adaptation = {
        .engine = engine,
        .model = model,
        .prior = prior,
        .train = train,
        .options = options,
        .progress = {.call = show, .user = &calls},
    };
    priorfit_job *job = NULL;
    check(priorfit_job_start(&adaptation, &job, &error), error);

    /* The caller is free: a program would draw its window here. Joining waits for the end. */
    priorfit_posterior *adapted = NULL, *probe = NULL, *loaded = NULL;
    check(priorfit_job_join(job, &adapted, &probe, &error), error);
    printf("probe: accuracy %.3f\n", measure(probe, engine, test));
    printf("adapted: accuracy %.3f\n", measure(adapted, engine, test));

    /* The adapted model is a folder that predicts on its own. */
    check(priorfit_posterior_save(adapted, argv[2], &error), error);
    check(priorfit_posterior_load(argv[2], &loaded, &error), error);
    printf("loaded: accuracy %.3f\n", measure(loaded, engine, test));

    priorfit_posterior_free(loaded, NULL);
    priorfit_posterior_free(probe, NULL);
    priorfit_posterior_free(adapted, NULL);
    priorfit_job_free(job, NULL);
    priorfit_dataset_free(test, NULL);
    priorfit_dataset_free(rest, NULL);
    priorfit_dataset_free(train, NULL);
    priorfit_dataset_free(digits, NULL);
    priorfit_prior_free(prior, NULL);
    priorfit_model_free(model, NULL);
    priorfit_engine_free(engine, NULL);
    return EXIT_SUCCESS;
}
