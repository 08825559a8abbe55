"""leapgen inside transformers: the pipeline task ``leap``, and ``model.generate(custom_generate=...)``."""

from leapgen.hub import FOLDER, save_custom_generate
from leapgen.integrations.transformers.generate import LeapDecoderOutput, custom_generate, generate, leap_inputs
from leapgen.integrations.transformers.generators import generator_for
from leapgen.integrations.transformers.pipeline import LeapPipeline, register

__all__ = ["FOLDER", "LeapDecoderOutput", "LeapPipeline", "custom_generate", "generate", "generator_for", "leap_inputs",
           "register", "save_custom_generate"]
