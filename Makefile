# `make setup` prepares a fresh machine; `make demo` is the main job; `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GL_PACKAGES := libegl1 libgl1 libosmesa6
ONLY_POLICY := --policy 1 --expert 0 --noisy 0 --near-miss 0 --play 0
ONLY_CLONE := $(ONLY_POLICY) --policy-noise 0.1
ONLY_GRASPS := --grasp 1 --expert 0 --noisy 0 --near-miss 0 --play 0
# to the folder [stack_]clone_<demonstrations>_<seed>
CLONE = $(BIN)/rla-gym agent bc --demonstrations $(word 1,$(subst _, ,$*)) --seed $(word 2,$(subst _, ,$*)) --out $(@D)
CLONES := 5_2 10_0 10_1 20_3
MOSTLY_NEAR_MISSES := --near-miss 0.6 --noisy 0.2 --expert 0.15 --play 0.05
STACKING := --placement standard
OF_ALL_KINDS := --expert 0.3 --noisy 0.15 --near-miss 0.3 --play 0.1 --grasp 0.08 --hasty-grasp 0.07

.PHONY: setup gl demo world world-stack world-seeds world-gpu world-rla-wm world-paper world-sampler world-sampler-gpu calibration ablation encoders test fuzz lint clean

setup: gl
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"

# The dream needs no OpenGL; the ground-truth simulator draws its frames with it.
gl:
	@if ldconfig -p | grep -q libEGL.so.1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(GL_PACKAGES); \
	else \
		echo "robosuite needs OpenGL; please run: sudo apt-get install -y $(GL_PACKAGES)"; \
	fi

demo:
	$(BIN)/rla-gym demo --out runs/demo

# The recipe of the bundled world, from nothing, on 2 cores. The first encoder is a small ViT student whose clones are weak;
# the clones of the second, the world's own, succeed about half the time. Their roll-outs show the world what the policies
# do that it will be asked about. Every step resumes; a finished one is skipped.
world: worlds/lift/fidelity.json
	mkdir -p world_models/worlds/lift
	cp worlds/lift/*.json worlds/lift/*.safetensors worlds/lift/README.md world_models/worlds/lift

worlds/lift_student/demonstrations.safetensors:
	$(BIN)/rla-gym collect Lift --episodes 640 --out data/lift
	$(BIN)/rla-gym train data/lift --out worlds/lift_student --encoder-only --encoder.no-pretrained \
		--encoder.backbone vit_tiny_patch16_224 --encoder.backbone-arguments depth 4 \
		--distillation.optimisation.iterations 900 --demonstrations 16

.PRECIOUS: runs/weak_%/policy.safetensors
runs/weak_%/policy.safetensors: worlds/lift_student/demonstrations.safetensors
	$(BIN)/rla-gym agent bc --world worlds/lift_student --demonstrations $* --out runs/weak_$*

worlds/lift_encoder/demonstrations.safetensors: runs/weak_3/policy.safetensors runs/weak_8/policy.safetensors
	$(BIN)/rla-gym collect Lift --episodes 700 --out data/lift --policy-folder runs/weak_3 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 760 --out data/lift --policy-folder runs/weak_8 $(ONLY_POLICY)
	$(BIN)/rla-gym train data/lift --out worlds/lift_encoder --encoder-only

.PRECIOUS: runs/clone_%/policy.safetensors
runs/clone_%/policy.safetensors: worlds/lift_encoder/demonstrations.safetensors
	$(CLONE) --world worlds/lift_encoder

data/lift/complete: $(CLONES:%=runs/clone_%/policy.safetensors)
	$(BIN)/rla-gym collect Lift --episodes 1600 --out data/lift $(MOSTLY_NEAR_MISSES)
	$(BIN)/rla-gym collect Lift --episodes 1800 --out data/lift --policy-folder runs/weak_8 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 2000 --out data/lift --policy-folder runs/weak_3 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 2150 --out data/lift --policy-folder runs/clone_5_2 $(ONLY_CLONE)
	$(BIN)/rla-gym collect Lift --episodes 2350 --out data/lift --policy-folder runs/clone_10_0 $(ONLY_CLONE)
	$(BIN)/rla-gym collect Lift --episodes 2550 --out data/lift --policy-folder runs/clone_10_1 $(ONLY_CLONE)
	$(BIN)/rla-gym collect Lift --episodes 2800 --out data/lift --policy-folder runs/clone_20_3 $(ONLY_CLONE)
	$(BIN)/rla-gym collect Lift --episodes 4100 --out data/lift $(ONLY_GRASPS)
	touch $@

worlds/lift_base/success.json: data/lift/complete
	$(BIN)/rla-gym train data/lift --out worlds/lift_base --encoder-from worlds/lift_encoder --dynamics residual_flow regression

# The sampler around the regression: the default dynamics, as the last that is named. The others stay as they are.
ONLY_SAMPLER := --dynamics residual_flow regression score_sampler --pushed-chunks 5 --rgb-optimisation.iterations 0 \
	--residual-flow-optimisation.iterations 0 --regression-optimisation.iterations 0
worlds/lift/success.json: worlds/lift_base/success.json
	$(BIN)/rla-gym train data/lift --out worlds/lift --start-from worlds/lift_base $(ONLY_SAMPLER)

worlds/lift/fidelity.json: worlds/lift/success.json
	$(BIN)/rla-gym bench fidelity data/lift --world worlds/lift --out $@

# The second task by the same commands, with fewer episodes of one placement and without the baseline.
world-stack: worlds/stack/fidelity.json
	mkdir -p world_models/worlds/stack
	cp worlds/stack/*.json worlds/stack/*.safetensors worlds/stack/README.md world_models/worlds/stack

worlds/stack_encoder/demonstrations.safetensors:
	$(BIN)/rla-gym collect Stack --episodes 1000 --out data/stack $(STACKING) $(OF_ALL_KINDS)
	$(BIN)/rla-gym train data/stack --task Stack --out worlds/stack_encoder --encoder-only

.PRECIOUS: runs/stack_clone_%/policy.safetensors
runs/stack_clone_%/policy.safetensors: worlds/stack_encoder/demonstrations.safetensors
	$(CLONE) --world worlds/stack_encoder

data/stack/complete: runs/stack_clone_10_0/policy.safetensors runs/stack_clone_24_1/policy.safetensors
	$(BIN)/rla-gym collect Stack --episodes 1120 --out data/stack $(STACKING) --policy-folder runs/stack_clone_10_0 $(ONLY_CLONE)
	$(BIN)/rla-gym collect Stack --episodes 1240 --out data/stack $(STACKING) --policy-folder runs/stack_clone_24_1 $(ONLY_CLONE)
	touch $@

worlds/stack/success.json: data/stack/complete
	$(BIN)/rla-gym train data/stack --task Stack --out worlds/stack --encoder-from worlds/stack_encoder --dynamics residual_flow \
		--residual-flow-optimisation.iterations 4500 --rgb-optimisation.iterations 1500

worlds/stack/fidelity.json: worlds/stack/success.json
	$(BIN)/rla-gym bench fidelity data/stack --world worlds/stack --out $@

# Two more training seeds, for intervals over seeds.
world-seeds: worlds/lift_base/success.json worlds/lift_seed1/success.json worlds/lift_seed2/success.json
	$(BIN)/rla-gym bench fidelity data/lift --world worlds/lift_base worlds/lift_seed1 worlds/lift_seed2 \
		--out benchmarks/results/fidelity_seeds.json

worlds/lift_seed%/success.json: data/lift/complete
	$(BIN)/rla-gym train data/lift --out worlds/lift_seed$* --encoder-from worlds/lift_encoder --seed $* \
		--dynamics residual_flow --rgb-optimisation.iterations 1

# The same recipe where a GPU is at hand: ten times the arithmetic, larger models, and minutes instead of hours.
world-gpu: data/lift/complete
	$(BIN)/rla-gym train data/lift --out worlds/lift_gpu --encoder-from worlds/lift_encoder --device cuda \
		--residual-flow.width 384 --residual-flow.base-depth 10 --residual-flow.flow-depth 4 \
		--residual-flow-optimisation.iterations 40000 --residual-flow-optimisation.batch-size 256 \
		--regression.width 384 --regression.depth 11 \
		--regression-optimisation.iterations 40000 --regression-optimisation.batch-size 256
	$(BIN)/rla-gym bench fidelity data/lift --world worlds/lift_gpu --out worlds/lift_gpu/fidelity.json

# The paper's model, RLA-WM: the sizes that two CPU cores train in an hour, and the paper's own over DINOv2 on a GPU.
world-rla-wm: data/lift/complete
	$(BIN)/rla-gym train data/lift --out worlds/lift_rla_wm --encoder-from worlds/lift_encoder --dynamics rla_wm

PAPER := --dynamics rla_wm --encoder.backbone vit_small_patch14_dinov2.lvd142m --encoder.image-size 224 \
	--encoder.channels None --rla-wm.autoencoder.latents 32 --rla-wm.autoencoder.latent-dim 64 \
	--rla-wm.autoencoder.width 1024 --rla-wm.autoencoder.depth 12 --rla-wm.autoencoder.heads 16 \
	--rla-wm.autoencoder.horizon 100 --rla-wm.flow.width 1024 --rla-wm.flow.state-depth 8 --rla-wm.flow.flow-depth 8 \
	--rla-wm.flow.heads 16 --rla-wm.flow.solver-steps 10 \
	--rla-optimisation.iterations 100000 --rla-optimisation.batch-size 256 --rla-optimisation.learning-rate 1e-4 \
	--latent-flow-optimisation.iterations 100000 --latent-flow-optimisation.batch-size 256 \
	--latent-flow-optimisation.learning-rate 1e-4

world-paper: data/lift/complete
	$(BIN)/rla-gym train data/lift --out worlds/lift_paper --device cuda $(PAPER)
	$(BIN)/rla-gym bench fidelity data/lift --world worlds/lift_paper --out worlds/lift_paper/fidelity.json

# Samplers of three training seeds, from one regression on, and how well their doubt is calibrated.
world-sampler: worlds/lift_sampler_0/success.json worlds/lift_sampler_1/success.json worlds/lift_sampler_2/success.json
	$(BIN)/rla-gym bench calibration data/lift --world $(^D) --out worlds/lift_sampler_0/calibration.json

worlds/lift_sampler_%/success.json: worlds/lift_base/success.json
	$(BIN)/rla-gym train data/lift --out $(@D) --start-from worlds/lift_base --dynamics regression score_sampler --seed $* \
		--regression-optimisation.iterations 0 --rgb-optimisation.iterations 0 --pushed-chunks 5

# The same recipe where a GPU is at hand: three seeds, ten times the arithmetic, minutes each.
world-sampler-gpu: data/lift/complete
	for seed in 0 1 2; do $(BIN)/rla-gym train data/lift --out worlds/lift_sampler_gpu$$seed --seed $$seed --device cuda \
		--encoder-from lift --dynamics regression score_sampler --pushed-chunks 5 --rgb-optimisation.iterations 1 \
		--regression-optimisation.iterations 20000 --regression-optimisation.batch-size 256 \
		--score-sampler.depth 6 --score-sampler.width 256 --score-sampler-optimisation.iterations 20000 \
		--score-sampler-optimisation.batch-size 256; done
	$(BIN)/rla-gym bench calibration data/lift --world worlds/lift_sampler_gpu0 worlds/lift_sampler_gpu1 \
		worlds/lift_sampler_gpu2 --out worlds/lift_sampler_gpu0/calibration.json

# Does a dream know what it cannot see? Episodes under hidden friction, mass and actuation noise, worlds trained on them,
# and 32 replays of moments around a grasp, against which all draws are scored; the same without hidden causes as control.
# Each step takes one core, so `make -j 2` takes two. The sampler is trained around the regression of its world, the
# regressions of three seeds make an ensemble.
HIDDEN_WORLDS := rla_wm 0 1 2 residual_flow
calibration: $(HIDDEN_WORLDS:%=worlds/hidden_%/success.json) truth/hidden/complete truth/deterministic/complete
	$(BIN)/rla-gym bench calibration data/lift_hidden --truth truth --world $(HIDDEN_WORLDS:%=worlds/hidden_%) \
		--out benchmarks/results/calibration_hidden.json

data/lift_hidden/complete:
	$(BIN)/rla-gym collect Lift --hidden --episodes 400 --out data/lift_hidden
	$(BIN)/rla-gym collect Lift --hidden --episodes 900 --out data/lift_hidden $(MOSTLY_NEAR_MISSES)
	$(BIN)/rla-gym collect Lift --hidden --episodes 1600 --out data/lift_hidden $(ONLY_GRASPS)
	touch $@

# Decodes and encodes for the others, which may then run side by side.
worlds/hidden_encoder/demonstrations.safetensors: data/lift_hidden/complete
	$(BIN)/rla-gym train data/lift_hidden --out $(@D) --encoder-from lift --encoder-only

HIDDEN_REGRESSION := --dynamics regression --regression-optimisation.iterations 2000
HIDDEN_0 := --dynamics regression score_sampler --regression-optimisation.iterations 2000 --score-sampler-optimisation.iterations 1800
HIDDEN_1 := $(HIDDEN_REGRESSION) --seed 1
HIDDEN_2 := $(HIDDEN_REGRESSION) --seed 2
HIDDEN_rla_wm := --dynamics rla_wm
HIDDEN_residual_flow := --dynamics residual_flow --residual-flow-optimisation.iterations 2000
worlds/hidden_%/success.json: worlds/hidden_encoder/demonstrations.safetensors
	$(BIN)/rla-gym train data/lift_hidden --out $(@D) --encoder-from lift --threads 1 --pushed-chunks 5 \
		--rgb-optimisation.iterations 1 --error-optimisation.iterations 200 $(HIDDEN_$*)

truth/%/complete: data/lift_hidden/complete
	$(BIN)/rla-gym bench hidden-truth data/lift_hidden --out $(@D) --workers 1 $(if $(filter deterministic,$*),--no-hidden)
	touch $@

# What each choice of the recipe buys, and which encoder: short trainings, one core each, so `make -j 2` takes two.
SHORT := --dynamics residual_flow --residual-flow-optimisation.iterations 1000 \
	--rgb-optimisation.iterations 1 --error-optimisation.iterations 0 --threads 1
VARIED_no_pushed_chunks := --pushed-chunks 0
VARIED_no_first_frames := --first-frame-share 0
VARIED_attention := --residual-flow.mixing attention
VARIED_few_latents := --residual-flow.latents 8 --residual-flow.latent-dim 16
VARIED_wide := --residual-flow.width 224
VARIED_large_batch := --residual-flow-optimisation.iterations 500 --residual-flow-optimisation.batch-size 128
VARIED_another_seed := --seed 1
VARIED := no_pushed_chunks no_first_frames attention few_latents wide large_batch another_seed

ablation: worlds/ablation/recipe/training.json $(VARIED:%=worlds/ablation/%/training.json) \
		worlds/ablation/scripts_alone/training.json
	$(BIN)/rla-gym bench ablation $(^D) --data data/lift_ablation --split report

worlds/ablation/%/training.json: data/lift_ablation/complete
	$(BIN)/rla-gym train data/lift_ablation --out $(@D) --encoder-from lift $(SHORT) $(VARIED_$*)

# The first training decodes and encodes for the others, which may then run side by side.
$(VARIED:%=worlds/ablation/%/training.json): worlds/ablation/recipe/training.json

worlds/ablation/scripts_alone/training.json: data/lift_scripts/complete
	$(BIN)/rla-gym train data/lift_scripts --out $(@D) --encoder-from lift $(SHORT)

VIT := --encoder.no-pretrained --encoder.backbone vit_tiny_patch16_224 --encoder.backbone-arguments depth 4
ENCODER_random := $(VIT) --distillation.optimisation.iterations 1
ENCODER_student := $(VIT) --distillation.optimisation.iterations 900
ENCODERS := random student pretrained

encoders: $(ENCODERS:%=worlds/encoders/%/training.json)
	$(BIN)/rla-gym bench encoders data/lift_scripts --worlds $(^D)

worlds/encoders/%/training.json: data/lift_scripts/complete
	$(BIN)/rla-gym train data/lift_scripts --out $(@D) $(SHORT) $(ENCODER_$*)

worlds/encoders/student/training.json worlds/encoders/pretrained/training.json: worlds/encoders/random/training.json

data/lift_scripts/complete:
	$(BIN)/rla-gym collect Lift --episodes 640 --out data/lift_scripts
	touch $@

data/lift_ablation/complete: data/lift_scripts/complete runs/ablation_weak_3/policy.safetensors \
		runs/ablation_weak_8/policy.safetensors
	[ -d data/lift_ablation ] || (rm -rf data/lift_ablation.tmp && cp -r data/lift_scripts data/lift_ablation.tmp \
		&& rm data/lift_ablation.tmp/complete && mv data/lift_ablation.tmp data/lift_ablation)
	$(BIN)/rla-gym collect Lift --episodes 720 --out data/lift_ablation --policy-folder runs/ablation_weak_3 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 800 --out data/lift_ablation --policy-folder runs/ablation_weak_8 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 1600 --out data/lift_ablation $(MOSTLY_NEAR_MISSES)
	$(BIN)/rla-gym collect Lift --episodes 1700 --out data/lift_ablation --policy-folder runs/ablation_weak_8 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 1800 --out data/lift_ablation --policy-folder runs/ablation_weak_3 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 2500 --out data/lift_ablation $(ONLY_GRASPS)
	touch $@

runs/ablation_weak_%/policy.safetensors:
	$(BIN)/rla-gym agent bc --demonstrations $* --gradient-steps 1000 --out $(@D)

test:
	$(BIN)/python -m pytest

# Damaged and hostile inputs, and what becomes of each (docs/robustness.md); a sample of it is part of `make test`.
fuzz:
	$(BIN)/python -m tests.fuzz --mutations 1200 --workers 2 --out runs/fuzz.json

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) build dist *.egg-info
