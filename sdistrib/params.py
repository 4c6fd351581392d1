"""Everything that decides a picture: one declarative table.

Each field of `Params` is one parameter. Its type and `Meta` are the wire validation, its `Spec`
says how it is spelled on the command line, at which stage it acts, and which member of the engine's
C structs takes it. The CLI, the codec, the engine call, the context key and
`docs/reference/parameters.md` are all made from here; nothing else lists parameters.

Names, short letters and defaults are those of sd-cli as vendored by engine 0.4.7
(`examples/common/common.cpp`), so that its users can keep their habits.
"""

import math
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

from sdistrib import limits
from sdistrib.errors import PetitionError

Stage = Literal["load", "draw", "finish"]

ModelKind = Literal[
    "stable-diffusion", "diffusion", "vae", "clip", "t5", "taesd", "esrgan", "controlnet",
    "embeddings", "lora", "photomaker",
]  # fmt: skip

#: What is drawn: a picture, a video, or a given picture made larger.
Mode = Literal["img_gen", "vid_gen", "upscale"]

SampleMethod = Literal[
    "euler", "euler_a", "heun", "dpm2", "dpm++2s_a", "dpm++2m", "dpm++2mv2", "ipndm", "ipndm_v",
    "lcm", "ddim_trailing", "tcd", "res_multistep", "res_2s", "er_sde",
]  # fmt: skip
Scheduler = Literal[
    "discrete", "karras", "exponential", "ays", "gits", "sgm_uniform", "simple", "smoothstep",
    "kl_optimal", "lcm", "bong_tangent",
]  # fmt: skip
Rng = Literal["std_default", "cuda", "cpu"]
Prediction = Literal["eps", "v", "edm_v", "sd3_flow", "flux_flow", "flux2_flow"]
WeightType = Literal[
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K",
    "q6_K",
]  # fmt: skip
LoraApplyMode = Literal["auto", "immediately", "at_runtime"]
CacheMode = Literal[
    "disabled", "easycache", "ucache", "dbcache", "taylorseer", "cache-dit", "spectrum"
]
ScmPolicy = Literal["dynamic", "static"]
PictureFormat = Literal["png", "jpeg", "webp"]

#: Quality of lossy files where none is asked for; sd-cli's, for JPEG and for WebP.
QUALITY = 90


class Spec(NamedTuple):
    """How one parameter is spelled, when it acts and where the engine takes it."""

    #: Command-line spellings, the preferred one first, short letters included.
    flags: tuple[str, ...]
    #: One sentence of help.
    help: str
    #: "load": part of the context key; "draw": per image; "finish": after the engine has drawn.
    stage: Stage
    #: Member of the engine's structs: `ctx.…` is sd_ctx_params_t, `img.…` is sd_img_gen_params_t
    #: or, in a video, the member of that name of sd_vid_gen_params_t; `vid.…` is only the latter.
    engine: str = ""
    #: For names of model files: the catalogue kind that is searched.
    kind: ModelKind | None = None
    #: The flag switches off what is on by default.
    negated: bool = False
    #: The value is the digest of an input file; on the command line it is the file's path.
    input: bool = False
    #: How the value is written, where its type does not say so.
    metavar: str = ""


def _load(flags: str, text: str, engine: str, **more: Any) -> Spec:
    return Spec(tuple(flags.split()), text, "load", "ctx." + engine, **more)


def _draw(flags: str, text: str, engine: str, **more: Any) -> Spec:
    return Spec(tuple(flags.split()), text, "draw", "img." + engine if engine else "", **more)


def _film(flags: str, text: str, engine: str, **more: Any) -> Spec:
    return Spec(tuple(flags.split()), text, "draw", "vid." + engine if engine else "", **more)


def _finish(flags: str, text: str, **more: Any) -> Spec:
    return Spec(tuple(flags.split()), text, "finish", **more)


_Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
_Prompt = Annotated[str, Meta(max_length=limits.PROMPT_BYTES_MAX)]
_Side = Annotated[int, Meta(ge=limits.SIDE_MIN, le=limits.SIDE_MAX, multiple_of=limits.SIDE_STEP)]
_Target = Annotated[int, Meta(ge=0, le=limits.SIDE_MAX, multiple_of=limits.SIDE_STEP)]
_Tile = Annotated[int, Meta(ge=0, le=limits.SIDE_MAX)]
_Scale = Annotated[float, Meta(ge=0.0, le=1000.0)]
_Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
_Sigma = Annotated[float, Meta(ge=0.0, le=1e6)]
_Layer = Annotated[int, Meta(ge=0, le=1000)]
#: SHA-256 of an input file in hex; empty is none. `Petition.inputs` has its size.
_Input = Annotated[str, Meta(max_length=64, pattern=r"^([0-9a-f]{64})?\Z")]
_InputListed = Annotated[str, Meta(max_length=64, pattern=r"^[0-9a-f]{64}\Z")]


# fmt: off
class Params(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Parameters of one petition, as they travel, without seed and count.

    A field that is None or an empty name leaves the choice to the engine. An unknown field is an
    error and not ignored: a picture drawn without a wish that was uttered is a wrong picture.
    """

    mode: Annotated[Mode, _draw("--mode -M", "Draw a picture, a video, or make the picture of -i larger.", "")] = "img_gen"

    # --- model files: looked up in the worker's catalogue ---
    model: Annotated[_Name, _load("--model -m", "Checkpoint with everything in it.", "model_path", kind="stable-diffusion")] = ""
    diffusion_model: Annotated[_Name, _load("--diffusion-model", "Standalone diffusion model.", "diffusion_model_path", kind="diffusion")] = ""
    high_noise_diffusion_model: Annotated[_Name, _load("--high-noise-diffusion-model", "Standalone high-noise diffusion model (Wan 2.2).", "high_noise_diffusion_model_path", kind="diffusion")] = ""
    vae: Annotated[_Name, _load("--vae", "Standalone VAE.", "vae_path", kind="vae")] = ""
    taesd: Annotated[_Name, _load("--taesd --tae", "Tiny autoencoder: fast decoding, less detail.", "taesd_path", kind="taesd")] = ""
    clip_l: Annotated[_Name, _load("--clip_l", "CLIP-L text encoder.", "clip_l_path", kind="clip")] = ""
    clip_g: Annotated[_Name, _load("--clip_g", "CLIP-G text encoder.", "clip_g_path", kind="clip")] = ""
    clip_vision: Annotated[_Name, _load("--clip_vision", "CLIP vision encoder.", "clip_vision_path", kind="clip")] = ""
    t5xxl: Annotated[_Name, _load("--t5xxl", "T5-XXL text encoder.", "t5xxl_path", kind="t5")] = ""
    llm: Annotated[_Name, _load("--llm --qwen2vl", "LLM text encoder (Qwen, Mistral).", "llm_path", kind="clip")] = ""
    llm_vision: Annotated[_Name, _load("--llm_vision --qwen2vl_vision", "Vision part of the LLM text encoder.", "llm_vision_path", kind="clip")] = ""
    control_net: Annotated[_Name, _load("--control-net", "ControlNet model; it follows --control-image.", "control_net_path", kind="controlnet")] = ""
    photo_maker: Annotated[_Name, _load("--photo-maker", "PhotoMaker model.", "photo_maker_path", kind="photomaker")] = ""

    # --- other load-time parameters: a change means a reload ---
    wtype: Annotated[WeightType | None, _load("--type", "Weight type to convert to while loading.", "wtype")] = None
    tensor_type_rules: Annotated[str, Meta(max_length=1024), _load("--tensor-type-rules", "Weight type by tensor name, for example '^vae\\.=f16,model\\.=q8_0'.", "tensor_type_rules")] = ""
    rng: Annotated[Rng, _load("--rng", "Random numbers as 'cuda' (sd-webui), 'cpu' (ComfyUI) or 'std_default' make them.", "rng_type")] = "cuda"
    sampler_rng: Annotated[Rng | None, _load("--sampler-rng", "Random numbers of the sampler; as --rng when left out.", "sampler_rng_type")] = None
    prediction: Annotated[Prediction | None, _load("--prediction", "Overrides what the model says it predicts.", "prediction")] = None
    lora_apply_mode: Annotated[LoraApplyMode, _load("--lora-apply-mode", "How LoRAs are applied; at_runtime leaves the model's weights untouched.", "lora_apply_mode")] = "at_runtime"
    threads: Annotated[int, Meta(ge=0, le=1024), _load("--threads -t", "CPU threads; 0 leaves it to the worker.", "n_threads")] = 0
    offload_to_cpu: Annotated[bool, _load("--offload-to-cpu", "Keep weights in RAM and move them to the device when needed.", "offload_params_to_cpu")] = False
    mmap: Annotated[bool, _load("--mmap", "Map the model file into memory instead of reading it.", "enable_mmap")] = False
    max_vram: Annotated[float, Meta(ge=0.0, le=1024.0), _load("--max-vram", "GiB of device memory to run in by cutting the graph; 0 is no bound.", "max_vram")] = 0.0
    clip_on_cpu: Annotated[bool, _load("--clip-on-cpu", "Keep the text encoder on the CPU.", "keep_clip_on_cpu")] = False
    taesd_preview_only: Annotated[bool, _load("--taesd-preview-only", "Use --taesd for previews only, and the VAE for the picture itself.", "tae_preview_only")] = False
    vae_on_cpu: Annotated[bool, _load("--vae-on-cpu", "Keep the VAE on the CPU.", "keep_vae_on_cpu")] = False
    control_net_cpu: Annotated[bool, _load("--control-net-cpu", "Keep the ControlNet on the CPU.", "keep_control_net_on_cpu")] = False
    fa: Annotated[bool, _load("--fa", "Flash attention everywhere.", "flash_attn")] = False
    diffusion_fa: Annotated[bool, _load("--diffusion-fa", "Flash attention in the diffusion model only.", "diffusion_flash_attn")] = False
    diffusion_conv_direct: Annotated[bool, _load("--diffusion-conv-direct", "Direct convolution in the diffusion model.", "diffusion_conv_direct")] = False
    vae_conv_direct: Annotated[bool, _load("--vae-conv-direct", "Direct convolution in the VAE.", "vae_conv_direct")] = False
    circular: Annotated[bool, _load("--circular", "Pictures that tile on both axes.", "circular_x+circular_y")] = False
    circularx: Annotated[bool, _load("--circularx", "Pictures that tile from left to right.", "circular_x")] = False
    circulary: Annotated[bool, _load("--circulary", "Pictures that tile from top to bottom.", "circular_y")] = False
    force_sdxl_vae_conv_scale: Annotated[bool, _load("--force-sdxl-vae-conv-scale", "Use the convolution scale of the SDXL VAE.", "force_sdxl_vae_conv_scale")] = False
    chroma_dit_mask: Annotated[bool, _load("--chroma-disable-dit-mask", "Chroma: no DiT mask.", "chroma_use_dit_mask", negated=True)] = True
    chroma_t5_mask: Annotated[bool, _load("--chroma-enable-t5-mask", "Chroma: use the T5 mask.", "chroma_use_t5_mask")] = False
    chroma_t5_mask_pad: Annotated[int, Meta(ge=0, le=4096), _load("--chroma-t5-mask-pad", "Chroma: T5 mask padding.", "chroma_t5_mask_pad")] = 1
    qwen_image_zero_cond_t: Annotated[bool, _load("--qwen-image-zero-cond-t", "Qwen Image: zero conditioning time step.", "qwen_image_zero_cond_t")] = False

    # --- per image ---
    prompt: Annotated[_Prompt, _draw("--prompt -p", "What to draw; <lora:name:weight> applies a LoRA, embedding:name an embedding.", "prompt")] = ""
    negative_prompt: Annotated[_Prompt, _draw("--negative-prompt -n", "What not to draw.", "negative_prompt")] = ""
    width: Annotated[_Side, _draw("--width -W", "Width in pixels, a multiple of 8.", "width")] = 512
    height: Annotated[_Side, _draw("--height -H", "Height in pixels, a multiple of 8.", "height")] = 512
    steps: Annotated[int, Meta(ge=1, le=limits.STEPS_MAX), _draw("--steps", "Sampling steps.", "sample_params.sample_steps")] = 20
    cfg_scale: Annotated[_Scale, _draw("--cfg-scale", "Classifier-free guidance.", "sample_params.guidance.txt_cfg")] = 7.0
    img_cfg_scale: Annotated[_Scale | None, _draw("--img-cfg-scale", "Image guidance of inpaint and edit models; as --cfg-scale when left out.", "sample_params.guidance.img_cfg")] = None
    guidance: Annotated[_Scale, _draw("--guidance", "Distilled guidance of models that have such an input.", "sample_params.guidance.distilled_guidance")] = 3.5
    sampling_method: Annotated[SampleMethod | None, _draw("--sampling-method", "Sampler; the model's own when left out.", "sample_params.sample_method")] = None
    scheduler: Annotated[Scheduler | None, _draw("--scheduler --schedule", "Sigma schedule; the model's own when left out.", "sample_params.scheduler")] = None
    sigmas: Annotated[tuple[_Sigma, ...], Meta(max_length=limits.STEPS_MAX + 1), _draw("--sigmas", "Sigmas of one's own, from high to low.", "sample_params.custom_sigmas", metavar="S,S,…")] = ()
    eta: Annotated[_Scale | None, _draw("--eta", "Noise multiplier; the sampler's own when left out.", "sample_params.eta")] = None
    flow_shift: Annotated[_Scale | None, _draw("--flow-shift", "Shift of flow models; the model's own when left out.", "sample_params.flow_shift")] = None
    timestep_shift: Annotated[int, Meta(ge=0, le=1000), _draw("--timestep-shift", "Time step shift of NitroFusion models.", "sample_params.shifted_timestep")] = 0
    slg_scale: Annotated[_Scale, _draw("--slg-scale", "Skip-layer guidance of DiT models; 0 is off.", "sample_params.guidance.slg.scale")] = 0.0
    skip_layers: Annotated[tuple[_Layer, ...], Meta(max_length=64), _draw("--skip-layers", "Layers that skip-layer guidance skips.", "sample_params.guidance.slg.layers", metavar="[N,N,…]")] = (7, 8, 9)
    skip_layer_start: Annotated[_Fraction, _draw("--skip-layer-start", "Where skip-layer guidance starts.", "sample_params.guidance.slg.layer_start")] = 0.01
    skip_layer_end: Annotated[_Fraction, _draw("--skip-layer-end", "Where skip-layer guidance ends.", "sample_params.guidance.slg.layer_end")] = 0.2
    clip_skip: Annotated[int, Meta(ge=-1, le=64), _draw("--clip-skip", "Last CLIP layers to ignore; -1 is the model's own, 1 ignores none.", "clip_skip")] = -1
    init_image: Annotated[_Input, _draw("--init-img -i", "Picture to start from.", "init_image", input=True, metavar="FILE")] = ""
    mask: Annotated[_Input, _draw("--mask", "Where the picture of -i is drawn anew: white is drawn, black is kept.", "mask_image", input=True, metavar="FILE")] = ""
    strength: Annotated[_Fraction, _draw("--strength", "How much of the picture of -i may change.", "strength")] = 0.75
    ref_images: Annotated[tuple[_InputListed, ...], Meta(max_length=limits.REF_IMAGES_MAX), _draw("--ref-image -r", "Reference picture for models that edit; may be given several times.", "ref_images", input=True, metavar="FILE")] = ()
    increase_ref_index: Annotated[bool, _draw("--increase-ref-index", "Count the reference pictures up.", "increase_ref_index")] = False
    auto_resize_ref_image: Annotated[bool, _draw("--disable-auto-resize-ref-image", "Take reference pictures in their own size.", "auto_resize_ref_image", negated=True)] = True
    control_image: Annotated[_Input, _draw("--control-image", "Picture that the ControlNet follows.", "control_image", input=True, metavar="FILE")] = ""
    control_strength: Annotated[_Scale, _draw("--control-strength", "How strictly the ControlNet is followed.", "control_strength")] = 0.9
    canny: Annotated[bool, _draw("--canny", "Make the edges of --control-image its control picture.", "")] = False
    pm_id_images: Annotated[tuple[_InputListed, ...], Meta(max_length=limits.REF_IMAGES_MAX), _draw("--pm-id-images-dir", "Folder with pictures of the person, for PhotoMaker.", "pm_params.id_images", input=True, metavar="DIR")] = ()
    pm_id_embed: Annotated[_Input, _draw("--pm-id-embed-path", "Embedding of the person, for PhotoMaker v2.", "pm_params.id_embed_path", input=True, metavar="FILE")] = ""
    pm_style_strength: Annotated[_Scale, _draw("--pm-style-strength", "Style strength of PhotoMaker.", "pm_params.style_strength")] = 20.0
    vae_tiling: Annotated[bool, _draw("--vae-tiling", "Decode in tiles: less memory.", "vae_tiling_params.enabled")] = False
    vae_tile_size: Annotated[tuple[_Tile, _Tile], _draw("--vae-tile-size", "Tile size in latent pixels; 0x0 is the engine's own.", "vae_tiling_params.tile_size_x+vae_tiling_params.tile_size_y", metavar="XxY")] = (0, 0)
    vae_relative_tile_size: Annotated[tuple[_Scale, _Scale], _draw("--vae-relative-tile-size", "Tile size as a fraction of the picture (< 1) or as a number of tiles (>= 1).", "vae_tiling_params.rel_size_x+vae_tiling_params.rel_size_y", metavar="XxY")] = (0.0, 0.0)
    vae_tile_overlap: Annotated[Annotated[float, Meta(ge=0.0, le=0.9)], _draw("--vae-tile-overlap", "Overlap as a fraction of the tile.", "vae_tiling_params.target_overlap")] = 0.5
    cache_mode: Annotated[CacheMode, _draw("--cache-mode", "Reuse of computations between steps.", "cache.mode")] = "disabled"
    cache_option: Annotated[str, Meta(max_length=1024), _draw("--cache-option", "Settings of the cache mode, for example 'threshold=0.25'.", "cache", metavar="K=V,…")] = ""
    scm_mask: Annotated[str, Meta(max_length=4096, pattern=r"^([01](,[01])*)?\Z"), _draw("--scm-mask", "Steps that cache-dit computes (1) or may reuse (0).", "cache.scm_mask", metavar="1,0,…")] = ""
    scm_policy: Annotated[ScmPolicy, _draw("--scm-policy", "Policy of the step mask.", "cache.scm_policy_dynamic")] = "dynamic"
    hires: Annotated[bool, _draw("--hires", "Draw small, enlarge, draw again (highres fix).", "hires.enabled")] = False
    hires_upscaler: Annotated[_Name, _draw("--hires-upscaler", "How highres fix enlarges: Latent, Lanczos, Nearest, … or a model in the esrgan folder.", "hires.upscaler")] = "Latent"
    hires_scale: Annotated[float, Meta(ge=1.0, le=16.0), _draw("--hires-scale", "Factor of highres fix when no target size is given.", "hires.scale")] = 2.0
    hires_width: Annotated[_Target, _draw("--hires-width", "Target width of highres fix; 0 uses the factor.", "hires.target_width")] = 0
    hires_height: Annotated[_Target, _draw("--hires-height", "Target height of highres fix; 0 uses the factor.", "hires.target_height")] = 0
    hires_steps: Annotated[int, Meta(ge=0, le=limits.STEPS_MAX), _draw("--hires-steps", "Steps of the second pass; 0 repeats --steps.", "hires.steps")] = 0
    hires_denoising_strength: Annotated[float, Meta(gt=0.0, le=1.0), _draw("--hires-denoising-strength", "How much the second pass may change.", "hires.denoising_strength")] = 0.7
    hires_upscale_tile_size: Annotated[int, Meta(ge=1, le=4096), _draw("--hires-upscale-tile-size", "Tile size of a model upscaler in highres fix.", "hires.upscale_tile_size")] = 128

    # --- of videos ---
    video_frames: Annotated[int, Meta(ge=1, le=limits.VIDEO_FRAMES_MAX), _film("--video-frames", "Frames of the video; Wan models make 4n + 1.", "video_frames")] = 1
    fps: Annotated[int, Meta(ge=1, le=120), _film("--fps", "Frames per second of the video's file.", "")] = 16
    end_image: Annotated[_Input, _film("--end-img", "Picture that the video ends with.", "end_image", input=True, metavar="FILE")] = ""
    control_frames: Annotated[tuple[_InputListed, ...], Meta(max_length=limits.CONTROL_FRAMES_MAX), _film("--control-video", "Folder with the frames that the video follows, in the order of their names.", "control_frames", input=True, metavar="DIR")] = ()
    vace_strength: Annotated[_Scale, _film("--vace-strength", "How strictly a VACE model follows --control-video.", "vace_strength")] = 1.0
    moe_boundary: Annotated[_Fraction, _film("--moe-boundary", "Where the high-noise model ends, when --high-noise-steps is -1.", "moe_boundary")] = 0.875
    high_noise_steps: Annotated[int, Meta(ge=-1, le=limits.STEPS_MAX), _film("--high-noise-steps", "Steps of the high-noise model; -1 finds them by --moe-boundary.", "high_noise_sample_params.sample_steps")] = -1
    high_noise_cfg_scale: Annotated[_Scale, _film("--high-noise-cfg-scale", "Classifier-free guidance of the high-noise model.", "high_noise_sample_params.guidance.txt_cfg")] = 7.0
    high_noise_img_cfg_scale: Annotated[_Scale | None, _film("--high-noise-img-cfg-scale", "Image guidance of the high-noise model; as its --high-noise-cfg-scale when left out.", "high_noise_sample_params.guidance.img_cfg")] = None
    high_noise_guidance: Annotated[_Scale, _film("--high-noise-guidance", "Distilled guidance of the high-noise model.", "high_noise_sample_params.guidance.distilled_guidance")] = 3.5
    high_noise_sampling_method: Annotated[SampleMethod | None, _film("--high-noise-sampling-method", "Sampler of the high-noise model; the model's own when left out.", "high_noise_sample_params.sample_method")] = None
    high_noise_eta: Annotated[_Scale | None, _film("--high-noise-eta", "Noise multiplier of the high-noise model; the sampler's own when left out.", "high_noise_sample_params.eta")] = None
    high_noise_slg_scale: Annotated[_Scale, _film("--high-noise-slg-scale", "Skip-layer guidance of the high-noise model; 0 is off.", "high_noise_sample_params.guidance.slg.scale")] = 0.0
    high_noise_skip_layers: Annotated[tuple[_Layer, ...], Meta(max_length=64), _film("--high-noise-skip-layers", "Layers that skip-layer guidance of the high-noise model skips.", "high_noise_sample_params.guidance.slg.layers", metavar="[N,N,…]")] = (7, 8, 9)
    high_noise_skip_layer_start: Annotated[_Fraction, _film("--high-noise-skip-layer-start", "Where skip-layer guidance of the high-noise model starts.", "high_noise_sample_params.guidance.slg.layer_start")] = 0.01
    high_noise_skip_layer_end: Annotated[_Fraction, _film("--high-noise-skip-layer-end", "Where skip-layer guidance of the high-noise model ends.", "high_noise_sample_params.guidance.slg.layer_end")] = 0.2

    # --- after the engine has drawn ---
    upscale_model: Annotated[_Name, _finish("--upscale-model", "ESRGAN model that enlarges the finished picture.", kind="esrgan")] = ""
    upscale_repeats: Annotated[int, Meta(ge=1, le=4), _finish("--upscale-repeats", "How often the upscaler runs.")] = 1
    upscale_tile_size: Annotated[int, Meta(ge=16, le=4096), _finish("--upscale-tile-size", "Tile size of the upscaler.")] = 128
    metadata: Annotated[bool, _finish("--disable-image-metadata", "Write no generation data into the picture.", negated=True)] = True
    format: Annotated[PictureFormat, _finish("--format", "Format of the file; when left out, the extension of -o says it. One that contradicts it is refused.")] = "png"
    quality: Annotated[Annotated[int, Meta(ge=1, le=100)] | None, _finish("--quality", f"Quality of a JPEG or lossy WebP file; {QUALITY} when left out. Above 90 JPEG keeps the colours at full size.")] = None
    lossless: Annotated[bool, _finish("--lossless", "WebP without any loss.")] = False
# fmt: on


class Parameter(NamedTuple):
    """One row of the table, ready for the CLI and the documentation."""

    #: Field name, as on the wire.
    name: str
    #: The bare Python type, annotations taken off.
    type: Any
    default: Any
    spec: Spec
    #: Allowed words, where there are such.
    choices: tuple[str, ...]
    #: All bounds that stand at the field, for documentation.
    bounds: tuple[Meta, ...]


def _rows() -> tuple[Parameter, ...]:
    hints = get_type_hints(Params, include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(Params)}
    rows = []
    for name, hint in hints.items():
        bare, *notes = get_args(hint)
        spec = next(note for note in notes if isinstance(note, Spec))
        metas = tuple(note for note in notes if isinstance(note, Meta))
        default = fields[name].default
        rows.append(Parameter(name, bare, default, spec, _choices(bare), metas))
    return tuple(rows)


def _choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *get_args(hint)):
        words = get_args(part)
        if words and all(isinstance(word, str) for word in words):
            return words
    return ()


#: The table as rows, in the order of the fields.
PARAMETERS: tuple[Parameter, ...] = _rows()
#: Rows by field name.
BY_NAME: dict[str, Parameter] = {row.name: row for row in PARAMETERS}
#: Fields that name model files, with the kind searched.
MODEL_FIELDS: dict[str, ModelKind] = {
    row.name: row.spec.kind for row in PARAMETERS if row.spec.kind is not None
}
#: Fields that hold digests of input files.
INPUT_FIELDS: tuple[str, ...] = tuple(row.name for row in PARAMETERS if row.spec.input)
#: Upscalers that highres fix has built in; any other name is a file of kind esrgan.
HIRES_UPSCALERS: tuple[str, ...] = (
    "None", "Latent", "Latent (nearest)", "Latent (nearest-exact)", "Latent (antialiased)",
    "Latent (bicubic)", "Latent (bicubic antialiased)", "Lanczos", "Nearest",
)  # fmt: skip


def input_digests(params: Params) -> tuple[str, ...]:
    """Digests of all input files that `params` names, each once, in the order of the fields."""
    named: list[str] = []
    for field in INPUT_FIELDS:
        value = getattr(params, field)
        named += value if isinstance(value, tuple) else [value]
    return tuple(dict.fromkeys(filter(None, named)))


def check(params: Params) -> None:
    """Check what no single field can say.

    Raises:
        PetitionError: `invalid_params` or `too_large`, naming the field.
    """
    for name in ("prompt", "negative_prompt"):
        _check_text(name, getattr(params, name), limits.PROMPT_BYTES_MAX)
    for name in _TEXTS:
        if text := getattr(params, name):
            _check_text(name, text, limits.BODY_BYTES_MAX)
    for name in _NUMBERS:
        _check_finite(name, getattr(params, name))
    if params.mode == "upscale":
        _check_upscale(params)
        return
    if not params.prompt.strip():
        _refuse("prompt", "The prompt is empty; say with -p what to draw.")
    if not params.model and not params.diffusion_model:
        _refuse(
            "model", "No model is named; give -m NAME, or --diffusion-model NAME and its parts."
        )
    _check_inputs(params)
    _check_mode(params)
    _check_skips(params)
    if any(low > high for high, low in zip(params.sigmas, params.sigmas[1:], strict=False)):
        _refuse("sigmas", "--sigmas must go from high to low.")
    cache_settings(params)
    _check_pixels(params)
    _check_file(params)


def _check_file(params: Params) -> None:
    if params.mode == "vid_gen" and (params.format, params.lossless) != ("webp", True):
        _refuse("format", "A video travels as lossless webp; its file may be another one.")
    if params.lossless and params.format != "webp":
        _refuse("lossless", f"--lossless is for webp files; this one is {params.format}.")
    if params.quality is not None and (params.lossless or params.format == "png"):
        kind = "PNG" if params.format == "png" else "lossless WebP"
        _refuse("quality", f"--quality is for lossy files; {kind} loses nothing.")


#: What upscaling a given picture depends on.
_UPSCALE_FIELDS = {
    "mode", "init_image", "threads", "offload_to_cpu", "diffusion_conv_direct",
    *(row.name for row in PARAMETERS if row.spec.stage == "finish"),
}  # fmt: skip


def _check_upscale(params: Params) -> None:
    if not params.init_image:
        _refuse("init_image", "-M upscale needs a picture; give it with -i FILE.")
    if not params.upscale_model:
        _refuse("upscale_model", "-M upscale needs an upscaler; give it with --upscale-model NAME.")
    for row in PARAMETERS:
        if row.name not in _UPSCALE_FIELDS and getattr(params, row.name) != row.default:
            _refuse(row.name, f"{row.spec.flags[0]} has no meaning with -M upscale.")


#: Fields that only mean something beside another one.
_NEEDS: dict[str, tuple[str, ...]] = {
    "mask": ("init_image",),
    "canny": ("control_image",),
    "control_image": ("control_net",),
    "control_net": ("control_image",),
    "pm_id_images": ("photo_maker",),
    "pm_id_embed": ("photo_maker",),
    "photo_maker": ("pm_id_images",),
}


def _check_inputs(params: Params) -> None:
    for field, needed in _NEEDS.items():
        for other in needed:
            if getattr(params, field) and not getattr(params, other):
                flag, missing = (BY_NAME[name].spec.flags[0] for name in (field, other))
                _refuse(field, f"{flag} means nothing without {missing}.")


#: Members of sd_img_gen_params_t that sd_vid_gen_params_t has not.
_STILL_MEMBERS = {
    "ref_images", "auto_resize_ref_image", "increase_ref_index", "mask_image", "control_image",
    "control_strength", "pm_params", "hires",
}  # fmt: skip
#: Parameters that act on pictures only, beside models for that; and those of videos only.
_STILL_FIELDS = frozenset(
    {
        row.name
        for row in PARAMETERS
        if row.spec.engine.split(".")[1:2] in [[m] for m in _STILL_MEMBERS]
    }
    | {"canny", "control_net", "photo_maker"}
)
_FILM_FIELDS = frozenset(
    {row.name for row in PARAMETERS if row.spec.engine.startswith("vid.")} | {"fps"}
)


def _check_skips(params: Params) -> None:
    for prefix in ("", "high_noise_"):
        start, end = f"{prefix}skip_layer_start", f"{prefix}skip_layer_end"
        if getattr(params, start) > getattr(params, end):
            first, last = (BY_NAME[name].spec.flags[0] for name in (start, end))
            _refuse(start, f"{first} must not lie behind {last}.")


def _check_mode(params: Params) -> None:
    film = params.mode == "vid_gen"
    for name in sorted(_STILL_FIELDS if film else _FILM_FIELDS):
        if getattr(params, name) != BY_NAME[name].default:
            where = "with" if film else "without"
            _refuse(name, f"{BY_NAME[name].spec.flags[0]} has no meaning {where} -M vid_gen.")


#: Fields that hold text, and fields that may hold a number which is none.
_TEXTS = tuple(row.name for row in PARAMETERS if row.type is str)
_NUMBERS = tuple(row.name for row in PARAMETERS if "float" in str(row.type))


def _check_finite(field: str, value: float | tuple[float, ...] | None) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if any(number is not None and not math.isfinite(number) for number in numbers):
        _refuse(field, f"{BY_NAME[field].spec.flags[0]} is {value}; it must be a finite number.")


def _check_text(field: str, text: str, bytes_max: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        _refuse(field, f"{BY_NAME[field].spec.flags[0]} holds bytes that are not valid UTF-8.")
    if "\0" in text:
        _refuse(field, f"{BY_NAME[field].spec.flags[0]} holds a NUL character.")
    if size > bytes_max:
        raise PetitionError.of(
            "too_large",
            f"The {field} has {size} bytes; at most {bytes_max} are taken.",
            field=field,
        )


def drawn_pixels(params: Params) -> int:
    """Pixels that the engine draws for one image, of all frames of a video together."""
    width, height = drawn_size(params)
    return width * height * params.video_frames


def drawn_size(params: Params) -> tuple[int, int]:
    """Width and height that the engine samples at in the end, after highres fix."""
    if not params.hires or params.hires_upscaler.lower() == "none":
        return params.width, params.height
    # With only one side given the engine makes a square.
    return (
        params.hires_width or params.hires_height or round(params.width * params.hires_scale),
        params.hires_height or params.hires_width or round(params.height * params.hires_scale),
    )


def _check_pixels(params: Params) -> None:
    width, height = drawn_size(params)
    if drawn_pixels(params) > limits.VIDEO_PIXELS_MAX:
        raise PetitionError.of(
            "too_large",
            f"{params.video_frames} frames of {width}x{height} are more than the"
            f" {limits.VIDEO_PIXELS_MAX} pixels that sdistrib draws for one video.",
            field="video_frames",
        )
    if width * height > limits.PIXELS_MAX or max(width, height) > limits.SIDE_MAX:
        raise PetitionError.of(
            "too_large",
            f"{width}x{height} pixels are more than the {limits.PIXELS_MAX} (side"
            f" {limits.SIDE_MAX}) that sdistrib draws.",
            field="hires_scale" if params.hires else "width",
        )


def _refuse(field: str, message: str) -> None:
    raise PetitionError.of("invalid_params", message, field=field)


_CACHE_KEYS: dict[str, tuple[str, type]] = {
    "start": ("start_percent", float),
    "end": ("end_percent", float),
    "decay": ("error_decay_rate", float),
    "relative": ("use_relative_threshold", bool),
    "reset": ("reset_error_on_compute", bool),
    "fn": ("Fn_compute_blocks", int),
    "bn": ("Bn_compute_blocks", int),
    "w": ("spectrum_w", float),
    "m": ("spectrum_m", int),
    "lam": ("spectrum_lam", float),
    "window": ("spectrum_window_size", int),
    "flex": ("spectrum_flex_window", float),
    "stop": ("spectrum_stop_percent", float),
}


def cache_settings(params: Params) -> dict[str, float | int | bool]:
    """Members of the engine's cache struct that `cache_option` sets.

    The keys and their meaning per mode are those of sd-cli (`initialize_cache_params`).

    Raises:
        PetitionError: `invalid_params` for an unknown key or a value that is no number.
    """
    mode = params.cache_mode
    keys = dict(_CACHE_KEYS)
    reuse = mode in ("easycache", "ucache")
    keys["threshold"] = ("reuse_threshold" if reuse else "residual_diff_threshold", float)
    keys["warmup"] = ("spectrum_warmup_steps" if mode == "spectrum" else "max_warmup_steps", int)
    settings: dict[str, float | int | bool] = {}
    for token in filter(None, params.cache_option.split(",")):
        key, _, text = token.partition("=")
        found = keys.get(key.strip() if key.strip() in keys else key.strip().lower())
        if found is None:
            _refuse("cache_option", f"--cache-option has no {key!r}; it has {', '.join(keys)}.")
            continue
        member, kind = found
        try:
            number = float(text)
            settings[member] = kind(number)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            _refuse("cache_option", f"--cache-option {key}: {text!r} is no number.")
    start = settings.get("start_percent", 0.15)
    end = settings.get("end_percent", 0.95)
    if reuse and not 0.0 <= start < end <= 1.0:
        _refuse("cache_option", "--cache-option must have 0 <= start < end <= 1.")
    return settings


def context_params(params: Params) -> dict[str, Any]:
    """The load-time parameters that differ from their defaults, by field name.

    Equal results need no reload. Model names are as the client wrote them; the context key itself
    is made from the digests of the files they resolve to.
    """
    return {
        row.name: getattr(params, row.name)
        for row in PARAMETERS
        if row.spec.stage == "load" and getattr(params, row.name) != row.default
    }
