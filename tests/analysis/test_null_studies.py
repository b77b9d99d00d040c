import pandas as pd
import pytest
from scipy import stats

from analysis import null_studies
from analysis.study.inline import Inline
from morphojax.exit_codes import REFUSED


def test_claims_are_counted_by_hand():
    contrasts = pd.DataFrame(
        {
            "low": [-0.1, 0.01, -0.2, -0.1],
            "high": [0.1, 0.05, -0.1, 0.2],
            "t_low": [-0.1, -0.01, -0.2, -0.1],
            "t_high": [0.1, 0.05, -0.1, 0.2],
            "p_value": [0.5, 0.04, 0.03, 0.01],
        }
    )
    table = null_studies.claims(contrasts).set_index("claim")
    assert table["claims"].to_dict() == {"interval": 2, "gain": 1, "t interval": 1, "p < 0.05": 3}
    assert (table["studies"] == 4).all() and table.loc["interval", "rate"] == 0.5
    row = table.loc["gain"]
    assert row["p_above"] == pytest.approx(1 - 0.975**4)  # one or more of four, at the nominal 2.5 %
    assert row["low"] == pytest.approx(stats.beta.ppf(0.025, 1, 4)) and row["high"] == pytest.approx(
        stats.beta.ppf(0.975, 2, 3)
    )


def test_a_wrong_command_is_an_exit_code_and_a_line(tmp_path):
    code, line = Inline().call(
        ["morphojax.main", "--config=configs/segment_sax.py", "--config.stepz=1"], tmp_path / "log"
    )
    assert code == REFUSED and "--config.stepz: the config has no key stepz" in line
    code, line = Inline().call(
        ["morphojax.main", "--config=configs/segment_sax.py", "--config.steps=-1"], tmp_path / "log"
    )
    assert code == REFUSED and "config.steps" in line


@pytest.mark.slow
def test_a_study_runs_in_this_process_and_goes_on(tmp_path, capsys):
    for _ in range(2):  # the second time everything is done
        assert null_studies.main(["--studies=1", f"--output={tmp_path}"]) == 0
        assert "interval" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "null_studies.csv")) == 1


def test_no_studies_are_refused(tmp_path, capsys):
    assert null_studies.main(["--studies=0", f"--output={tmp_path}"]) == 2
    assert "--studies=0" in capsys.readouterr().err
