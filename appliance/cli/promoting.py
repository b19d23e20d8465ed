"""What `appliance train --promote` does: what was trained takes an alias over, if it beats what has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer

from appliance.errors import ApplianceError, ConfigError

if TYPE_CHECKING:
    from appliance.annotations.source import FormatName

logger = logging.getLogger(__name__)

PromoteOption = Annotated[
    str | None,
    typer.Option(
        "--promote",
        metavar="ALIAS",
        help="Let this alias, as production, name what was trained, if that beats on --test what the alias names.",
    ),
]
TestOption = Annotated[
    str | None,
    typer.Option("--test", metavar="DATA", help="Annotated pictures by which --promote decides."),
]
MinGainOption = Annotated[
    float, typer.Option(help="--promote only for so much more mAP@0.5, 0..1, and never for equal.")
]


@dataclass(frozen=True)
class Promoted:
    """What came of the wish.

    Attributes:
        alias: As `fridge@production`.
        promoted: Whether it names now what was trained.
        version: Number of what was trained.
        before: Number of the version that the alias named; None where there was no such alias.
        map_before: mAP@0.5 of that version on the test pictures, 0..1; None where nothing was compared.
        map_trained: Of what was trained.
        pictures: Test pictures.
        min_gain: How much more was wanted.
    """

    alias: str
    promoted: bool
    version: int
    before: int | None
    map_before: float | None = None
    map_trained: float | None = None
    pictures: int | None = None
    min_gain: float = 0.0

    @property
    def sentence(self) -> str:
        """All of it, in words."""
        if self.before is None:
            return f"{self.alias} is version {self.version} now, the first that it names: nothing was compared."
        if self.map_before is None or self.map_trained is None:
            return f"{self.alias} is version {self.version} already: nothing was compared."
        figures = (
            f"mAP@0.5 {self.map_trained:.3f} on {self.pictures} test pictures, "
            f"and version {self.before} has {self.map_before:.3f}"
        )
        if self.promoted:
            return f"{self.alias} is version {self.version} now: {figures}."
        wanted = f" (wanted: at least {self.min_gain:g} more)" if self.min_gain else ""
        return f"{self.alias} stays version {self.before}: version {self.version} has {figures}{wanted}."

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "sentence": self.sentence}


@dataclass(frozen=True)
class Promotion:
    """The wish.

    Attributes:
        name: Of the model in the registry.
        alias: Which is to name what was trained.
        test: Address of the annotated pictures that decide.
        min_gain: How much more mAP@0.5 is wanted, 0..1; never equal.
        data_format: How they are annotated, or "auto".
        images_root: Folder of their pictures, if they lie elsewhere.
        registry: Address of the registry.
    """

    name: str
    alias: str
    test: str
    min_gain: float
    data_format: FormatName | Literal["auto"]
    images_root: str | None
    registry: str | None

    @classmethod
    def of(
        cls,
        alias: str | None,
        test: str | None,
        min_gain: float,
        *,
        name: str | None,
        data_format: FormatName | Literal["auto"],
        images_root: str | None,
        registry: str | None,
    ) -> Self | None:
        """What the options of the command wish for; None for nothing.

        Raises:
            ConfigError: They do not go together, or one of them will not do.
        """
        from appliance.registry.references import checked_name

        if not 0 <= min_gain < 1:
            raise ConfigError("--min-gain is out of range", got=min_gain, expected="0 to below 1")
        if alias is None:
            if test is not None or min_gain:
                raise ConfigError(
                    "--test and --min-gain are for --promote", hint="Add --promote production"
                )
            return None
        checked_name(alias, "an alias")
        if name is None or test is None:
            raise ConfigError(
                "--promote needs a name in the registry and pictures to decide by",
                hint="Add --register NAME and --test DATA; to promote a version as it is, "
                "use appliance models promote",
            )
        return cls(name, alias, test, min_gain, data_format, images_root, registry)

    def check(self, labels: Sequence[str]) -> None:
        """Finds out before a training whether its test pictures will do.

        Args:
            labels: What is trained.

        Raises:
            StorageError, DatasetError, LabelError: They cannot be read, have no objects, or objects that neither
                what is trained nor what the alias names knows.
        """
        from appliance.annotations.dataset import ObjectDetectionDataset
        from appliance.errors import DatasetError
        from appliance.registry.references import Reference
        from appliance.registry.registry import Registry

        known = list(labels)
        with suppress(
            ConfigError
        ):  # there is no such model or alias yet: this one will be the first
            present = Registry(self.registry).entry(self.name)
            of_present = present.version(Reference(self.name, alias=self.alias)).labels
            known += [label for label in of_present if label not in known]
        test = ObjectDetectionDataset.read(
            self.test, format=self.data_format, labels=known, images_root=self.images_root
        )
        if not any(len(image.boxes_xyxy) for image in test.images):
            raise DatasetError("The test pictures have no objects to decide by", where=self.test)

    def carry_out(self, number: int, *, quiet: bool = False) -> Promoted:
        """Compares a version with the one that the alias names, and promotes it if it is better.

        Raises:
            ApplianceError: They cannot be compared, or the registry not be written; the hint says how to promote
                by hand.
        """
        try:
            return self._decided(number, quiet)
        except ApplianceError as error:
            alias = "" if self.alias == "production" else f" --alias {self.alias}"
            where = "" if self.registry is None else f" --registry {self.registry}"
            error.hint = (
                f"The model is trained, and is {self.name}:{number}; to promote it as it is: "
                f"appliance models promote {self.name}:{number}{alias}{where}"
            )
            raise

    def _decided(self, number: int, quiet: bool) -> Promoted:
        from appliance.cli.comparing import comparison
        from appliance.cli.detecting import Where
        from appliance.registry.references import Reference
        from appliance.registry.registry import Registry

        registry, alias = Registry(self.registry), f"{self.name}@{self.alias}"
        trained = Reference(self.name, version=number)
        while True:
            before = registry.entry(self.name).aliases.get(self.alias)
            decided = Promoted(alias, True, number, before, min_gain=self.min_gain)
            if before not in (None, number):
                found = comparison(
                    str(registry.address(Reference(self.name, version=before))),
                    str(registry.address(trained)),
                    self.test,
                    where=Where(quiet=quiet, few_here=True),
                    data_format=self.data_format,
                    images=self.images_root,
                )
                old, new = found.map.ap_a or 0.0, found.map.ap_b or 0.0
                is_better = new > old and new - old >= self.min_gain
                decided = Promoted(
                    *(alias, is_better, number, before, old, new, found.num_images, self.min_gain)
                )
                if not is_better:
                    return decided
            if registry.promote(trained, self.alias, instead_of=before).after == number:
                return decided
            logger.info("%s names another version meanwhile: that is the one to beat", alias)
