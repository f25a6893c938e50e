"""Validation by what a user sees: decoded texts, and their BLEU."""

import importlib.util

import keras


class Bleu(keras.callbacks.Callback):
    """Decodes samples when an epoch ends, and adds their BLEU (Papineni et al. 2002), by sacrebleu, to the logs.

    The value is `val_bleu`, from 0 to 100, for callbacks that are given after this one:
    `ModelCheckpoint(path, monitor="val_bleu", mode="max", save_best_only=True)`, and `EarlyStopping` likewise. So it is
    for the progress bar, the history, `CSVLogger` and TensorBoard.

    It knows no task: what makes texts of texts is handed in, such as `tasks.Translator(model, tokenizer)`.

    Args:
        translate: from a list of strings to a list of strings.
        sources: what it is given.
        references: as many strings, or of lists of strings one for each set of references.
        metric: a metric of sacrebleu; None means `sacrebleu.BLEU()`. `sacrebleu.CHRF()` goes as well, under its `name`.
        name: of the value in the logs.
        shown: how many samples are printed.
        every: after how many epochs.

    Raises:
        ImportError: at once, if sacrebleu is needed and not installed.
    """

    def __init__(self, translate, sources, references, metric=None, name="val_bleu", shown=2, every=1):
        super().__init__()
        sources = list(sources)
        references = [list(references)] if not references or isinstance(references[0], str) else list(references)
        if not sources or any(len(one) != len(sources) for one in references):
            raise ValueError(
                "`references` must hold a text for each of `sources`, of which there must be one at least. Received: "
                f"{len(sources)} sources, {[len(one) for one in references]} references"
            )
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}")
        if metric is None:
            if importlib.util.find_spec("sacrebleu") is None:
                raise ImportError("`Bleu` needs sacrebleu, which is not installed. Run: pip install sacrebleu")
            import sacrebleu

            metric = sacrebleu.BLEU()
        self.translate = translate
        self.sources = sources
        self.references = references
        self.metric = metric
        self.name = name
        self.shown = shown
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        translations = list(self.translate(self.sources))
        if len(translations) != len(self.sources):
            raise ValueError(
                f"`translate` must return a text for each of {len(self.sources)} sources. Received: {len(translations)}"
            )
        score = self.metric.corpus_score(translations, self.references)
        if logs is not None:
            logs[self.name] = float(score.score)
        print(f"\nEpoch {epoch + 1}: {score}")
        for source, translation, reference in list(zip(self.sources, translations, self.references[0]))[: self.shown]:
            print(f"  source       {source}\n  translation  {translation}\n  reference    {reference}")
