"""Every bound of the system, each with its reason.

Tests check each one at N and at N + 1. What can be wanted larger on a big machine is an option of
the manager; the numbers here are what a stranger can rely on.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- Frames ---------------------------------------------------------------------------------

#: Header frames are a few hundred bytes; a large one is a mistake or an attack on the decoder.
HEADER_BYTES_MAX = 64 * KIB
#: A petition's body: two prompts at their limit and some hundred small numbers.
BODY_BYTES_MAX = 128 * KIB
#: An inventory of 20,000 files with names of 150 bytes.
INVENTORY_BYTES_MAX = 8 * MIB
#: Files in one inventory; what a large shared A1111 tree holds, ten times over.
INVENTORY_FILES_MAX = 20_000
#: Pictures travel in pieces of this size, so that a beat never waits behind 30 MB.
CHUNK_BYTES = 1 * MIB
#: Nothing we send is larger, so ZeroMQ may drop a peer that sends more.
FRAME_BYTES_MAX = INVENTORY_BYTES_MAX
#: Route, verb, header, blob.
FRAMES_MAX = 4
#: An 8192 x 8192 RGB picture that does not compress, and its metadata.
PICTURE_BYTES_MAX = 8192 * 8192 * 3 + MIB

# --- Credit ---------------------------------------------------------------------------------

#: Pieces of one picture that may be under way unacknowledged: enough for 4 MiB in flight.
CHUNK_CREDIT = 4
#: Results a client may hold unacknowledged before the rest waits in the blob store...
CLIENT_RESULTS_IN_FLIGHT_MAX = 4
#: ...or bytes, whichever comes first; one result is always allowed.
CLIENT_BYTES_IN_FLIGHT_MAX = 8 * MIB
#: Petitions that one connection of a client listens to. Should all end before it reads, each puts
#: an answer, a progress, a cancel and an end into ZeroMQ's queue, and all together stay below
#: its mark.
CLIENT_PETITIONS_MAX = 200
#: Results a worker keeps while the manager is away or has not recorded them; then it takes no work.
WORKER_RESULTS_HELD_MAX = 64
#: Longest side of a preview: what fits beside a prompt on a screen.
PREVIEW_SIDE_MAX = 512
#: Bytes of one preview; pure noise of that size is smaller as a JPEG of our quality.
PREVIEW_BYTES_MAX = 384 * KIB
#: Previews that one connection of a client has not said to have seen, of all its petitions.
CLIENT_PREVIEWS_IN_FLIGHT_MAX = 4
#: Bytes of previews that a manager keeps for slow clients, each a single newest one per petition;
#: one that finds no room is dropped.
PREVIEWS_BYTES_MAX = 64 * MIB
#: Contexts that one engine keeps loaded; the memory of any device is full long before.
CONTEXTS_KEPT_MAX = 16
#: Messages per peer in ZeroMQ's own queue. Credit keeps us far below; the mark is a backstop.
HIGH_WATER_MARK = 1000

# --- Petitions ------------------------------------------------------------------------------

#: Images of one petition. AI Horde's limit is 20, A1111's slider ends at 8 x 100.
IMAGES_PER_PETITION_MAX = 1000
#: Petitions a manager keeps, waiting or finished and not yet fetched.
PETITIONS_MAX = 20_000
#: Images waiting or running in all petitions.
IMAGES_MAX = 200_000
#: Pictures the in-memory store keeps for clients that have not fetched them.
BLOB_BYTES_MAX = 20_000_000_000
#: Part of petitions, images and bytes that one of several users may have: the longest queue of one
#: leaves room for three more.
OWNER_SHARE = 0.25
#: Seconds that an ended petition is kept, counted while a manager runs and unless somebody still
#: fetches it: a day.
RETENTION_S = 86400.0
#: Bytes of pictures that clients have seen and may fetch again.
RETENTION_BYTES = 5_000_000_000
#: Ids of forgotten petitions are remembered for 30 days...
TOMBSTONE_S = 30 * 86400.0
#: ...up to this many.
TOMBSTONES_MAX = 100_000
#: Prompts: 75-token chunks make anything longer meaningless long before.
PROMPT_BYTES_MAX = 16 * KIB
#: Names of model files, workers and software on the wire.
NAME_CHARS_MAX = 512
#: Free text in errors and log lines.
TEXT_CHARS_MAX = 4000
#: Lines of engine log that an error carries.
LOG_TAIL_LINES = 20
#: LoRAs in one prompt.
LORAS_MAX = 64
#: Embeddings in both prompts; a prompt is seldom longer than 75 tokens, and each has several.
EMBEDDINGS_MAX = 64

#: Reference pictures of one petition, and pictures of a person for PhotoMaker.
REF_IMAGES_MAX = 16
#: Frames that a video may be told to follow: sd-cli's examples have 81.
CONTROL_FRAMES_MAX = 256
#: Input files of one petition: a video's first frame, its last one, and those that it follows.
INPUTS_MAX = CONTROL_FRAMES_MAX + 2
#: Bytes of one input file: a camera's picture, or a large PNG.
INPUT_BYTES_MAX = 64 * MIB
#: Bytes of input files that one user may have under way before their petitions are accepted.
STAGED_BYTES_MAX = 256 * MIB
#: Digests of input files that nobody names any more, for workers that were away: 16 messages.
FORGOTTEN_INPUTS_MAX = 4096
#: Silence after which a connection that was asked for an input file is not waited for: one piece
#: over the slowest link that is of any use.
UPLOAD_SILENCE_S = 300.0
#: Bytes of input files that a worker keeps, so that a picture used often is sent to it once.
INPUT_CACHE_BYTES = 2 * GIB

# --- Pictures -------------------------------------------------------------------------------

#: The engine's smallest latent that every model family accepts.
SIDE_MIN = 16
#: sd.cpp's own server stops at 4096; twice that leaves room for tiling.
SIDE_MAX = 8192
#: Sizes are counted in latent pixels of 8.
SIDE_STEP = 8
#: Width x height: Pillow's own decompression-bomb bound is of this order.
PIXELS_MAX = 8192 * 4096
#: Frames of one video: half a minute at 16 frames per second.
VIDEO_FRAMES_MAX = 513
#: Pixels of all frames of one video: 161 frames of 1280 x 720, and half a gigabyte on the way.
VIDEO_PIXELS_MAX = 161 * 1280 * 720
#: Bytes that an engine hands over for one image: the largest picture, or video, as pixels.
PIXEL_BYTES_MAX = max(PICTURE_BYTES_MAX, 3 * VIDEO_PIXELS_MAX)
#: Sampler steps.
STEPS_MAX = 1000
#: The engine's seed is an int64; room is left so that seed + index never overflows.
SEED_MAX = 2**63 - 1 - IMAGES_PER_PETITION_MAX

# --- Attempts and time ----------------------------------------------------------------------

#: Tries per image before it fails for good.
ATTEMPTS_MAX = 2
#: Workers on which an image may run out of memory before it is drawn with less, or fails.
OOM_TRIES_MAX = 4
#: Sizes per worker that are remembered as too large for its memory; the oldest go first.
CEILINGS_MAX = 256
#: Distinct kinds of petitions (files, size, context) for which a manager keeps what it found out.
KINDS_MAX = 4096
#: Workers that may vanish while drawing an image before the image is suspected.
LOSSES_MAX = 3
#: After a manager's start, images leased before it wait this long for their worker to report.
RESTART_GRACE_S = 15.0
#: The uptime counter and remaining time limits are kept this often; a crash forgets no more.
CLOCK_KEEP_S = 10.0
#: Beats go out this often; any message counts as one.
BEAT_S = 1.0
#: Silence after which a peer is suspect: no new work for it, its work may be given elsewhere.
SUSPECT_S = 3.0 * BEAT_S
#: Silence after which a peer's session is dropped.
GONE_S = 30.0
#: What a worker has is remembered for this long after it left, so that petitions can wait for it.
REMEMBER_WORKER_S = 7 * 86400.0
#: A turn of a loop that began this late was held up by this machine; deadlines move by the delay.
LATE_TURN_S = 1.0
#: A worker or client without an answer for this long says so, once.
SILENCE_NOTICE_S = 5.0
#: ZeroMQ's own heartbeat; long, since large frames on slow links are not death.
ZMTP_HEARTBEAT_TIMEOUT_S = 15.0
#: Wait between tries to reconnect: quick first, then no more than this.
RECONNECT_S_MAX = 5.0
#: Ctrl-C waits this long for the manager to confirm the cancel.
CANCEL_CONFIRM_S = 3.0
#: A worker has this long to answer a wish about it: several times what a busy loop takes.
STEER_ANSWER_S = 10.0
#: Time for a petition whose last capable worker vanished, before it ends `no_capable_worker`.
NO_WORKER_TIMEOUT_S = 3600.0
#: No length of time on the wire is longer, infinity above all: sums must stay numbers.
SECONDS_MAX = 1e9
#: Longest --timeout a petition may ask for: a week.
DEADLINE_S_MAX = 7 * 86400.0

# --- Engine child ---------------------------------------------------------------------------

#: One message on the engine's socketpair: parameters or a log line, never pixels.
ENGINE_FRAME_BYTES_MAX = 1 * MIB
#: Silence inside a step that is certainly not progress, before speed is known.
STEP_SILENCE_S = 600.0
#: ...for a picture of up to so many pixels; a larger one gets more in proportion.
STEP_SILENCE_PIXELS = 1024 * 1024
#: A step may take this many times its learned length.
STEP_SILENCE_FACTOR = 30.0
#: No learned limit goes below this; the first step after a load warms caches.
STEP_SILENCE_S_MIN = 60.0
#: Loading a model: a base...
LOAD_S_BASE = 300.0
#: ...and this much for each GiB of files (LocalAI's rule).
LOAD_S_PER_GIB = 20.0
#: The child has this long to start its interpreter and find its devices.
ENGINE_START_S = 60.0
#: Expected seconds of one call of the engine for several images: their pictures come at its end, so
#: that long a client sees nothing, a cancel is not felt, and so much work a crash undoes.
CALL_S_MAX = 2.0
#: Images of one call: the most that a manager grants at once. Each waits for the last in the
#: child's memory, 12 bytes for a pixel.
CALL_IMAGES_MAX = 16
#: A child that is told to end gets this long before SIGKILL.
ENGINE_STOP_S = 5.0
#: Waits between restarts of a child that keeps dying.
RESTART_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
