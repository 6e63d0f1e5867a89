"Old addresses: what could be imported from a module that has moved can be imported from there still."

import importlib
import pickle
import subprocess
import sys

import pytest

from spectral_diffusion.core.moved import MOVED

OLD = {  # module -> public names that it had
    "codec.hierarchical": (
        "block_matrix BlockTransform CodecConfig Block selection zero Scale Coded Prior Codec check_pictures"
        " crops lagrangian FitState fit build_codec count_parameters single_scale_twin MAGIC VERSION HEADER"
        " MAX_PIXELS Header exact fingerprint pad_to decide compress read_header decompress sizes_of sizes_in"
        " save_codec load_codec"
    ),
    "doe.arrays": (
        "check_array levels balance combination_counts strength offending_pairs verify MODULI Field field"
        " field_forms rao_hamming bush paley_core hadamard from_hadamard QUADRATICS TWELVE difference_scheme"
        " develop merge_columns dummy_level merged_array ARRAYS USUAL canonical name_of orthogonal_array"
        " register_array word_lengths triple_words alias_report interaction_table Graph linear_graph"
        " draw_linear_graph Assignment interactions_meet place_factors candidates assign write_array"
        " read_array"
    ),
    "data.real": "DATASETS register_dataset load_images floats",
    "lab.experiment": (
        "at_least DataConfig TrainConfig EvalConfig RunConfig Images floats power_law_images family_images"
        " cifar10_validation FAMILIES DATASETS load_images EvaluationSet evaluation_set eps_errors"
        " image_losses squared_errors Silent statistics field_of by_time by_band references"
        " build_denoiser marks Watcher"
        " json_log train_run measure_run errors_in_parts finite_distance help_run train_options save_denoiser"
        " load_denoiser check_size draw_samples to_bytes spectrum_table save_samples MOST_PIXELS load_samples"
        " check_channels sheet write_pictures Comparison arm_config plan Runs run_plan compare Reach"
        " first_reach to_target Ratio costs save_comparison"
    ),
    "lab.preflight": "part rehearse_training works working_samplers clipped FEW rehearse_sampling rehearse",
    "lab.interop": (
        "ALLOWED PICKLES diffusers_classes check_unet check_label from_diffusers to_diffusers allowed"
        " hub check_repo push pull tensorboard_writer log_tensorboard log_history"
    ),
    "lab.interop_diffusers": (
        "PREDICTIONS TableSchedule table_schedule process_from LetterBox check_single_call"
        " times_of_levels SpectralScheduler IndexedUNet FlowUNet build_network bits tensor_shapes"
        " SpectralModel process_config model_from SpectralPipeline"
    ),
    "lab.step_arguments": (
        "SHARES OUTSIDE RULES REPLACED EXACT setting in_shares training_levels rho_scale level_range"
        " check_list as_they_are check_settings shift_of unshifted unshifted_array ramp fractions"
        " rounded indices distilled places angles wuerstchen levels_used from_pairs to_clean Arguments"
        " scheduler_arguments judged"
    ),
    "doe.taguchi": (
        "GOALS refuse sn_larger sn_smaller spread sn_nominal sn_variance sn_target read_response"
        " signal_to_noise contrasts read_design as_levels LACK ROWS term_name term_factors model_blocks"
        " residual sum_of_squares check_estimable RESPONSES Fit pure_error choose_pool find_error fit_terms"
        " Study prediction_row anova_table effect_table observations remarks analyze plot_main_effects"
        " plot_contribution plot_interaction plot_distributions Lenth lenth half_normal plot_half_normal"
        " Prediction predict optimum Confirmation confirm ranking"
    ),
    "lab.records": (
        "FACTS INDEX results_root check_name run_path run_folder clear_partials write_json write_csv Record"
        " load_record read_csv save_record flatten run_folders ledger_rows read_ledger load_ledger"
        " write_ledger"
    ),
    "lab.timing": (
        "CLOCKS SHORTEST MOST_CALLS round_order wait measure calls_for Ratio Timings torch_threads named"
        " check_race compare_times Cost fit_cost"
    ),
    "lab.verdict": "Claim t_interval Verdict paired judge guarded save_verdicts as_text load_verdicts",
    "lab.pairs": "PairTest compare_pairs power pairs_needed",
    "lab.factors": "Factors read_factors Plan rows_of NoEffect check_factors",
    "lab.rows": "ENGINES read_rows Job sweep_table check_engine Failure Sweep SweepFailed run_rows",
    "noise.denoiser": (
        "PRECONDITIONINGS Denoiser plain_gains wiener_gains usable_targets check_target NetworkDenoiser"
        " ScalarField wrap target_of"
    ),
    "lab.cli": (
        "read_changes run_data run_bench_verb run_report TRAIN_HELP VARIANTS train_config tensorboard_log"
        " show_plan SAMPLE_HELP run_train find_run run_sample SWEEP_HELP run_sweep_verb TAGUCHI_HELP"
        " run_taguchi run_evaluate run_encode run_decode run_doctor TOP_HELP run_completion NEGATIVE Parser"
        " plain_path parser DEBUG one_line keep_traceback main"
    ),
    "lab.sweep": (
        "known_parameters check_parameters BenchFailed run_notebook bench_names reading_order find_bench"
        " run_bench run_sweep run_study read_study"
    ),
    "lab.widgets": (
        "DPI WIDGET VIEWS Picture to_picture slider choice image_view plain_log spoken two_forms Panel brush"
        " keep whole draw_mask mask_painter radial_mean draw_noise noise_shapes draw_steps sampler_scrubber"
        " tell_apart run_table curves_of samples_of draw_runs run_browser draw_study taguchi_explorer"
        " draw_training Monitor"
    ),
}


@pytest.mark.parametrize("old", OLD)
def test_every_name_is_found_at_its_old_address(old):
    module = importlib.import_module(f"spectral_diffusion.{old}")
    missing = [name for name in OLD[old].split() if not hasattr(module, name)]
    assert not missing


@pytest.mark.parametrize("old", MOVED)
def test_the_names_are_the_objects_of_the_new_place(old):
    module = importlib.import_module(f"spectral_diffusion.{old}")
    for place in MOVED[old].split():
        new = importlib.import_module(f"spectral_diffusion.{place}")
        assert all(
            getattr(module, name) is getattr(new, name) for name in new.__all__ if name not in vars(module)
        )


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


LINES = (
    "from spectral_diffusion.lab.verdict import Claim, judge",
    "import spectral_diffusion.lab.verdict as v; v.judge",
    "from spectral_diffusion.lab import verdict; verdict.judge",
    "from spectral_diffusion.lab.verdict import *; judge",
    "from spectral_diffusion.doe.arrays import strength",
)
EACH = f"""
import os, traceback
import pandas, scipy.stats, torch  # what takes long, and is not ours
for line in {LINES!r}:
    child = os.fork()
    if not child:
        try:
            exec(line)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("red: " + line)
"""


def test_every_form_of_import_in_a_fresh_process():
    "Each in a fork of a process that has imported nothing of this package."
    run = python(EACH)
    assert run.returncode == 0, run.stderr


def test_an_old_address_imports_nothing_before_it_is_asked():
    run = python(
        "import sys, spectral_diffusion.lab.verdict; print('spectral_diffusion.study.verdict' in sys.modules,"
        " 'torch' in sys.modules)"
    )
    assert run.stdout.split() == ["False", "False"]


def test_what_was_pickled_at_the_old_address_is_read():
    "A class is kept by its module and name."
    from spectral_diffusion.study.rows import Failure

    assert pickle.loads(b"cspectral_diffusion.lab.rows\nFailure\n.") is Failure


def test_a_name_that_is_nowhere_is_refused_with_the_new_address():
    module = importlib.import_module("spectral_diffusion.lab.verdict")
    with pytest.raises(
        AttributeError,
        match=r"lab\.verdict has no 'jugde', and neither has spectral_diffusion\.study\.verdict",
    ):
        getattr(module, "jugde")  # noqa: B009
    with pytest.raises(ImportError, match="jugde"):
        exec("from spectral_diffusion.lab.verdict import jugde")
    with pytest.raises(ModuleNotFoundError, match=r"lab\.verdcit"):
        importlib.import_module("spectral_diffusion.lab.verdcit")
