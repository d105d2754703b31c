/* The double of cuDNN: choices, plans without a device, misuse, captures. */
#include <math.h>
#include <string.h>

#include <string>

#include "cuda/cudnn_builder.hpp"

/* y = x + w, of 4 numbers. */
struct example {
    builder b;
    int64_t x, w, y;
    buffer bx, bw, by, workspace;

    example();
    std::vector<std::pair<int64_t, void *>> pointers() const
    {
        return {{x, bx.memory}, {w, bw.memory}, {y, by.memory}};
    }
    cudnnStatus_t execute(descriptor plan, const std::vector<std::pair<int64_t, void *>> &list)
    {
        return cudnnBackendExecute(b.handle, plan, b.pack(list, workspace.memory));
    }
};

static const double xs[4] = {1, 2, 3, 4}, ws[4] = {0.5, 0.25, 8, -1};

example::example()
    : bx(HL_ELEM_F32, 4, xs), bw(HL_ELEM_F32, 4, ws), by(HL_ELEM_F32, 4), workspace(HL_ELEM_F32, 2048)
{
    const sizes dims = {1, 4, 1, 1};
    x = b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims));
    w = b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims));
    y = b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims));
    b.pointwise(CUDNN_POINTWISE_ADD, x, w, y);
}

/* A product of two numbers. */
static void multiply_one(builder &b)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const sizes one = {1, 1, 1};
    descriptor m = b.add(CUDNN_BACKEND_MATMUL_DESCRIPTOR),
               o = b.add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set(m, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finalize(m);
    set_child(o, CUDNN_ATTR_OPERATION_MATMUL_DESC, m);
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_ADESC, b.tensor(CUDNN_DATA_FLOAT, one, one));
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.tensor(CUDNN_DATA_FLOAT, one, one));
    b.operand(o, CUDNN_ATTR_OPERATION_MATMUL_CDESC, b.tensor(CUDNN_DATA_FLOAT, one, one));
    b.operation(o);
}

static int64_t engine_of(builder &b, descriptor config, std::vector<int> *notes)
{
    descriptor engine = b.add(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    int64_t count = 0;
    notes->resize(8);
    cr_assert_eq(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                          1, &count, &engine),
                 CUDNN_STATUS_SUCCESS);
    cr_assert_eq(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                          8, &count, notes->data()),
                 CUDNN_STATUS_SUCCESS);
    notes->resize((size_t)count);
    return get_number(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
}

Test(plans, the_two_proposals_differ_in_engine_workspace_precision_and_time)
{
    builder b;
    multiply_one(b);
    const double fine = 1 + 0x1p-12, one = 1;
    buffer x(HL_ELEM_F32, 1, &fine), w(HL_ELEM_F32, 1, &one), y(HL_ELEM_F32, 1), workspace(HL_ELEM_F32, 2048);
    std::vector<descriptor> proposals = b.ask(b.graph(), CUDNN_HEUR_MODE_A);
    cr_assert_eq(proposals.size(), 2u);
    int64_t engine[2], bytes[2];
    float ms[2];
    double result[2];
    std::vector<int> notes[2];
    cudaEvent_t from, to;
    cudaEventCreateWithFlags(&from, cudaEventDefault);
    cudaEventCreateWithFlags(&to, cudaEventDefault);
    for (size_t i = 0; i < 2; i++) {
        engine[i] = engine_of(b, proposals[i], &notes[i]);
        descriptor plan = b.plan_of(proposals[i]);
        bytes[i] = get_number(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
        cudaEventRecord(from, b.stream);
        cr_assert_eq(
            cudnnBackendExecute(b.handle, plan,
                                b.pack({{1, x.memory}, {2, w.memory}, {3, y.memory}}, workspace.memory)),
            CUDNN_STATUS_SUCCESS);
        cudaEventRecord(to, b.stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&ms[i], from, to);
        result[i] = y.read()[0];
    }
    cr_expect_neq(engine[0], engine[1]);
    cr_expect_gt(bytes[0], bytes[1]);
    cr_expect_gt(ms[0], ms[1]);
    cr_expect_eq(notes[0].size(), 2u); /* tensor cores, inputs are rounded */
    cr_expect_eq(notes[1].size(), 0u);
    cr_expect_eq(result[0], 1.0);
    cr_expect_eq(result[1], fine);
}

Test(plans, an_engine_can_be_asked_for_with_its_knobs)
{
    for (int64_t value : {7, 8}) {
        example e;
        descriptor engine = e.b.add(CUDNN_BACKEND_ENGINE_DESCRIPTOR),
                   config = e.b.add(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR),
                   knob = e.b.add(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        const cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_KERNEL_CFG;
        set_child(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, e.b.graph());
        set_sizes(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, {23});
        finalize(engine);
        set(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        set_sizes(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, {value});
        finalize(knob);
        set_child(config, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
        set_child(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, knob);
        cr_expect_eq(cudnnBackendFinalize(config) == CUDNN_STATUS_SUCCESS, value == 7);
    }
}

Test(plans, described_properties_stand_for_a_device)
{
    double_set_devices(0);
    const sizes dims = {1, 4, 1, 1};
    const char json[] = "{}";
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_FALLBACK;
    const cudnnPointwiseMode_t relu = CUDNN_POINTWISE_RELU_FWD;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    descriptor device = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR),
               p = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR),
               o = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR),
               graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR),
               heuristic = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR),
               config = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR),
               plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set(device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 2, json);
    finalize(device);
    set(p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &relu);
    set(p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    finalize(p);
    set_child(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
    set_child(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
              make_tensor(1, CUDNN_DATA_FLOAT, dims, channels_last(dims), STORED));
    set_child(o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
              make_tensor(2, CUDNN_DATA_FLOAT, dims, channels_last(dims), STORED));
    finalize(o);
    set_child(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, o);
    finalize(graph);
    set_child(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    set_child(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    finalize(heuristic);
    int64_t found = 0;
    cr_assert_eq(cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &found, &config),
                 CUDNN_STATUS_SUCCESS);
    set_child(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    set_child(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    finalize(plan);
    cr_expect_eq(get_number(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE), 0);
    cudnnHandle_t handle;
    cr_expect_neq(cudnnCreate(&handle), CUDNN_STATUS_SUCCESS);
}

Test(plans, refused_operations_have_no_engine)
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    example e;
    descriptor graph = e.b.graph(), h = e.b.add(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    char text[256];
    set_child(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    double_refuse("add");
    cr_expect_eq(CUDNN_STATUS_CATEGORY((int)cudnnBackendFinalize(h)), CUDNN_STATUS_NOT_SUPPORTED);
    cudnnGetLastErrorString(text, sizeof text);
    cr_expect(strstr(text, "add") != NULL, "%s", text);
    cr_expect_eq(double_complaint_count(), 0);
    double_refuse(NULL);
    finalize(h);
}

Test(execution, a_plan_outlives_what_it_was_made_from)
{
    example e;
    descriptor plan = e.b.plan();
    for (descriptor &d : e.b.made)
        if (d != plan)
            cudnnBackendDestroyDescriptor(d);
    e.b.made = {plan};
    int64_t mark = double_mark();
    cr_expect_eq(e.execute(plan, e.pointers()), CUDNN_STATUS_SUCCESS);
    double_call last = double_call_at(double_call_count() - 1);
    cr_expect_str_eq(last.name, "cudnnBackendExecute");
    cr_expect(strstr(last.text, "add; 1:f32[1,4,1,1]/4,1,4,4") != NULL, "%s", last.text);
    cr_expect(strstr(last.text, "engine 23") != NULL, "%s", last.text);
    cr_expect_eq(last.stream, 1);
    cudaStreamSynchronize(e.b.stream);
    double_counts counts = double_since(mark);
    cr_expect_eq(counts.descriptors, 1); /* the pack */
    cr_expect_eq(counts.launches, 1);
    cr_expect_eq(counts.synchronisations, 1);
    cr_expect_eq(counts.allocations, 0);
    cr_expect_eq(e.by.read()[2], 11.0);
}

Test(execution, plans_are_captured_and_replayed)
{
    example e;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    /* y = x + w, then x = y: so that replays add up */
    descriptor plan = e.b.plan();
    cudaStreamBeginCapture(e.b.stream, cudaStreamCaptureModeThreadLocal);
    cr_expect_eq(e.execute(plan, e.pointers()), CUDNN_STATUS_SUCCESS);
    cr_expect(double_call_at(double_call_count() - 1).captured);
    cudaMemcpyAsync(e.bx.memory, e.by.memory, 16, cudaMemcpyDeviceToDevice, e.b.stream);
    cudaStreamEndCapture(e.b.stream, &graph);
    cudaGraphInstantiate(&executable, graph, 0);
    cudaStreamSynchronize(e.b.stream);
    cr_expect_eq(e.bx.read()[0], 1.0);
    for (int i = 0; i < 3; i++)
        cudaGraphLaunch(executable, e.b.stream);
    cudaStreamSynchronize(e.b.stream);
    cr_expect_eq(e.bx.read()[0], 2.5);
    cr_expect_eq(double_complaint_count(), 0, "%s", double_complaint(0));
}

Test(execution, a_missing_wait_gives_stale_numbers)
{
    for (int wait = 0; wait < 2; wait++) {
        example e;
        void *host;
        cudaStream_t copy;
        cudaEvent_t filled;
        const float fresh[4] = {100, 100, 100, 100};
        cudaHostAlloc(&host, sizeof fresh, cudaHostAllocDefault);
        memcpy(host, fresh, sizeof fresh);
        cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&filled, cudaEventDisableTiming);
        descriptor plan = e.b.plan();
        cudaMemcpyAsync(e.bx.memory, host, sizeof fresh, cudaMemcpyHostToDevice, copy);
        cudaEventRecord(filled, copy);
        if (wait)
            cudaStreamWaitEvent(e.b.stream, filled, 0);
        e.execute(plan, e.pointers());
        cudaStreamSynchronize(e.b.stream);
        cr_expect_eq(e.by.read()[0], wait ? 100.5 : 1.5);
    }
}

/* Each makes one mistake; the status must say so, and the complaint must have the word. */
static cudnnStatus_t with_pointers(example &e, const std::vector<std::pair<int64_t, void *>> &list)
{
    return e.execute(e.b.plan(), list);
}

static const struct {
    const char *word;
    cudnnStatus_t (*make)(example &e);
} mistakes[] = {
    {"no pointer",
     [](example &e) {
         return with_pointers(e, {{e.x, e.bx.memory}, {e.y, e.by.memory}});
     }},
    {"has 4 pointers",
     [](example &e) {
         auto list = e.pointers();
         list.push_back({77, e.by.memory});
         return with_pointers(e, list);
     }},
    {"not in device memory",
     [](example &e) {
         return with_pointers(e, {{e.x, e.b.stream}, {e.w, e.bw.memory}, {e.y, e.by.memory}});
     }},
    {"16 bytes are used",
     [](example &e) {
         buffer small(HL_ELEM_F32, 3);
         return with_pointers(e, {{e.x, small.memory}, {e.w, e.bw.memory}, {e.y, e.by.memory}});
     }},
    {"aligned",
     [](example &e) {
         char *off = static_cast<char *>(e.workspace.memory) + 4;
         return with_pointers(e, {{e.x, off}, {e.w, e.bw.memory}, {e.y, e.by.memory}});
     }},
    {"workspace",
     [](example &e) {
         descriptor plan = e.b.plan();
         return cudnnBackendExecute(e.b.handle, plan, e.b.pack(e.pointers(), nullptr));
     }},
    {"workspace",
     [](example &e) {
         descriptor plan = e.b.plan();
         return cudnnBackendExecute(e.b.handle, plan, e.b.pack(e.pointers(), e.bx.memory));
     }},
    {"another kind", [](example &e) { return cudnnBackendExecute(e.b.handle, e.b.graph(), e.b.plan()); }},
    {"not final",
     [](example &e) {
         return cudnnBackendExecute(e.b.handle, e.b.plan(), e.b.add(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR));
     }},
    {"not a descriptor", [](example &e) { return cudnnBackendFinalize(&e); }},
    {"not a handle",
     [](example &e) {
         return cudnnBackendExecute(reinterpret_cast<cudnnHandle_t>(&e), e.b.plan(), e.b.plan());
     }},
    {"is not set", [](example &e) { return cudnnBackendFinalize(e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR)); }},
    {"has type",
     [](example &e) {
         const int32_t uid = 1;
         return cudnnBackendSetAttribute(e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR),
                                         CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT32, 1, &uid);
     }},
    {"elements",
     [](example &e) {
         const int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
         return cudnnBackendSetAttribute(e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR),
                                         CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 9, nine);
     }},
    {"no attribute",
     [](example &e) {
         const int64_t one = 1;
         return cudnnBackendSetAttribute(e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR),
                                         CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one);
     }},
    {"final already",
     [](example &e) {
         const int64_t one = 1;
         return cudnnBackendSetAttribute(e.b.tensors.at(e.x), CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64,
                                         1, &one);
     }},
    {"not final",
     [](example &e) {
         descriptor tensor = e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
         return cudnnBackendSetAttribute(e.b.add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR),
                                         CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         1, &tensor);
     }},
    {"can only be read",
     [](example &e) {
         const int64_t one = 1;
         return cudnnBackendSetAttribute(e.b.add(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR),
                                         CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one);
     }},
    {"overlaps itself",
     [](example &e) {
         const cudnnDataType_t type = CUDNN_DATA_FLOAT;
         descriptor t = e.b.add(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
         set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
         set_sizes(t, CUDNN_ATTR_TENSOR_DIMENSIONS, {1, 4, 2, 2});
         set_sizes(t, CUDNN_ATTR_TENSOR_STRIDES, {16, 1, 4, 4});
         set_sizes(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, {1});
         set_sizes(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {16});
         return cudnnBackendFinalize(t);
     }},
    {"unique id",
     [](example &e) {
         const sizes dims = {1, 4, 1, 1};
         e.b.tensors[99] = e.b.keep(make_tensor(e.y, CUDNN_DATA_FLOAT, dims, channels_last(dims), VIRTUAL));
         e.b.pointwise(CUDNN_POINTWISE_IDENTITY, 99, 0,
                       e.b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims)));
         descriptor d = e.b.add(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
         set(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 2, e.b.operations.data());
         return cudnnBackendFinalize(d);
     }},
    {"never made",
     [](example &e) {
         const sizes dims = {1, 4, 1, 1};
         int64_t v = e.b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims), VIRTUAL);
         e.b.pointwise(CUDNN_POINTWISE_IDENTITY, v, 0,
                       e.b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims)));
         descriptor d = e.b.add(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
         set(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 2, e.b.operations.data());
         return cudnnBackendFinalize(d);
     }},
};

Test(misuse, every_mistake_is_refused_with_a_complaint)
{
    for (auto &m : mistakes) {
        example e;
        double_clear_complaints();
        cr_expect_neq(m.make(e), CUDNN_STATUS_SUCCESS, "%s", m.word);
        std::string all;
        for (int i = 0; i < double_complaint_count(); i++)
            all += std::string(double_complaint(i)) + "\n";
        cr_expect(all.find(m.word) != std::string::npos, "%s: %s", m.word, all.c_str());
    }
}

Test(misuse, results_that_overlap_operands_leave_a_complaint)
{
    for (int step : {0, 4, 8}) { /* floats from x to y, of 8: in place, half in place, apart */
        example e;
        float *x = static_cast<float *>(e.workspace.memory) + 1024, *y = x + step;
        cudaMemset(e.workspace.memory, 0, 8192);
        double_clear_complaints();
        const sizes dims = {1, 8, 1, 1};
        e.b.operations.clear();
        int64_t from = e.b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims)),
                to = e.b.tensor(CUDNN_DATA_FLOAT, dims, channels_last(dims));
        e.b.pointwise(CUDNN_POINTWISE_IDENTITY, from, 0, to);
        descriptor plan = e.b.plan();
        cr_expect_eq(e.execute(plan, {{from, x}, {to, y}}), CUDNN_STATUS_SUCCESS);
        cr_expect_eq(double_complaint_count(), step == 4 ? 1 : 0);
    }
}

Test(misuse, what_stays_is_reported_by_its_kind)
{
    example e;
    e.b.plan();
    int count = double_leak_count();
    bool plan = false, handle = false;
    for (int i = 0; i < count; i++) {
        plan = plan || strstr(double_leak(i), "execution plan") != NULL;
        handle = handle || strstr(double_leak(i), "cuDNN handle") != NULL;
    }
    cr_expect(plan && handle);
    e.b.close();
    for (buffer *old : {&e.bx, &e.bw, &e.by, &e.workspace})
        old->release();
    cr_expect_eq(double_report(), 0);
}

Test(failures, calls_of_cudnn_fail_on_demand)
{
    example e;
    descriptor plan = e.b.plan();
    double_fail("cudnnBackendExecute", 2, CUDNN_STATUS_EXECUTION_FAILED);
    cr_expect_eq(e.execute(plan, e.pointers()), CUDNN_STATUS_SUCCESS);
    cr_expect_eq(e.execute(plan, e.pointers()), CUDNN_STATUS_EXECUTION_FAILED);
    cr_expect_eq(e.execute(plan, e.pointers()), CUDNN_STATUS_SUCCESS);
    cr_expect_eq(double_complaint_count(), 0);
}
