"""What is said of a finished picture: in its file, to the manager, and in a copy's name. Pure."""

from dataclasses import dataclass

from sdistrib.infotext import PictureFacts
from sdistrib.protocol.engine import Drawn
from sdistrib.protocol.messages import EngineFacts, Result
from sdistrib_worker.calls import Job
from sdistrib_worker.events import PictureEncoded
from sdistrib_worker.naming import SavedFacts
from sdistrib_worker.results import fit_notes, seconds
from sdistrib_worker.session import Settings
from sdistrib_worker.shelf import Plan, Shelf


@dataclass(slots=True)
class Finished:
    """A picture between the engine and its file."""

    job: Job
    plan: Plan
    drawn: Drawn
    #: The engine that drew it.
    engine: EngineFacts
    #: Nobody wants it any more.
    abandoned: bool = False

    def facts(self, shelf: Shelf, settings: Settings) -> PictureFacts:
        """What is written into the file."""
        return PictureFacts(
            seed=self.job.seed,
            params=self.job.asked or self.job.params,
            files=shelf.used(self.plan),
            sampling_method=self.drawn.sampling_method,
            scheduler=self.drawn.scheduler,
            engine=self.engine,
            worker=settings.name,
            context=self.plan.context,
            version=settings.version,
        )

    def result(self, encoded: PictureEncoded, worker: str) -> Result:
        """What the manager is told of the file."""
        drawn = self.drawn
        return Result(
            attempt=encoded.attempt,
            seed=self.job.seed,
            digest=encoded.digest,
            size_bytes=len(encoded.data),
            format=self.job.params.format,
            width=drawn.width,
            height=drawn.height,
            worker=worker,
            fingerprint=self.engine.fingerprint,
            context=self.plan.context,
            load_s=seconds(drawn.load_s),
            draw_s=seconds(drawn.draw_s),
            encode_s=seconds(encoded.encode_s),
            sampling_s=min(seconds(drawn.sampling_s), seconds(drawn.draw_s)),
            notes=fit_notes((*self.job.notes, *drawn.notes, *encoded.notes)),
        )

    def saved(self, result: Result) -> SavedFacts:
        """What the name of a copy is made of."""
        return SavedFacts(
            id=result.attempt.id,
            index=result.attempt.index,
            seed=result.seed,
            model=self.plan.model,
            width=result.width,
            height=result.height,
            steps=self.job.params.steps,
            sampler=self.drawn.sampling_method,
            scheduler=self.drawn.scheduler,
            worker=result.worker,
            format=result.format,
        )
