"""Energy is counted across a wrap of its counter, and what cannot be read says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from headway.core import from_seconds
from headway.measure import EnergyUse, NotReadableError, NvmlMeter, RaplMeter, open_meters

RANGE_UJ = 1_000_000_000


def zone(root: Path, place: str, name: str, energy_uj: int) -> Path:
    folder = root / f"intel-rapl:{place}"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return folder / "energy_uj"


class FakeNvml:
    """Two GPUs with counters in mJ, as NVML shows them."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules: list[int]) -> None:
        self.millijoules = millijoules
        self.broken = ""

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own name
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:  # noqa: N802
        if self.broken:
            raise self.NVMLError(self.broken)
        return self.millijoules[device]


def test_packages_and_memory_are_added_and_parts_of_packages_are_not(tmp_path: Path) -> None:
    counters = [
        zone(tmp_path, "0", "package-0", 5),
        zone(tmp_path, "1", "package-1", 7),
        zone(tmp_path, "0:2", "dram", 0),
        zone(tmp_path, "0:0", "core", 0),
        zone(tmp_path, "2", "psys", 0),
    ]
    (tmp_path / "intel-rapl").mkdir()
    meter = RaplMeter(tmp_path)
    for counter in counters:
        counter.write_text("1000007\n")
    assert meter.joules() == pytest.approx((1_000_002 + 1_000_000 + 1_000_007) / 1e6)


def test_a_counter_that_begins_again_has_gone_round_once(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", RANGE_UJ - 2_000_000)
    meter = RaplMeter(tmp_path)
    counter.write_text("3000000")
    assert meter.joules() == 5.0
    counter.write_text("4000000")
    assert meter.joules() == 6.0
    counter.write_text("1000000")
    assert meter.joules() == 6.0 - 3.0 + RANGE_UJ / 1e6


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotReadableError, match="no counter of a processor's energy in"):
        RaplMeter(tmp_path / "nowhere")
    (tmp_path / "intel-rapl:0").mkdir()
    with pytest.raises(NotReadableError, match="no counter"):
        RaplMeter(tmp_path)


def test_a_counter_for_root_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(tmp_path, "0", "package-0", 5)
    counter.chmod(0)
    if os.access(counter, os.R_OK):  # root reads everything
        read = Path.read_text

        def denied(path: Path) -> str:
            if path == counter:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(NotReadableError, match="may not be read; run as root"):
        RaplMeter(tmp_path)


def test_a_counter_that_holds_no_number_says_so(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 5).write_text("many")
    with pytest.raises(NotReadableError, match="cannot be read"):
        RaplMeter(tmp_path)


def test_the_energy_of_all_gpus_is_added() -> None:
    nvml = FakeNvml([5_000_000, 7_000_000])
    meter = NvmlMeter(nvml)
    nvml.millijoules = [5_001_500, 7_000_500]
    assert meter.joules() == 2.0


def test_gpus_that_cannot_be_read_say_why() -> None:
    with pytest.raises(NotReadableError, match="no GPU"):
        NvmlMeter(FakeNvml([]))
    broken = FakeNvml([1])
    broken.broken = "Driver Not Loaded"
    with pytest.raises(NotReadableError, match="Driver Not Loaded"):
        NvmlMeter(broken)


def test_meters_give_watts_and_queries_per_joule(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 0)
    nvml = FakeNvml([0])
    meters = open_meters(tmp_path, nvml)
    counter.write_text("300000000")
    nvml.millijoules = [100_000]
    use = meters.used(from_seconds(4))
    assert (use.joules, use.watts, use.unread) == ({"cpu": 300.0, "gpu": 100.0}, 100.0, {})
    assert use.queries_per_joule(250.0) == 2.5


def test_a_counter_that_fails_on_the_way_is_left_out(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", 0)
    nvml = FakeNvml([0])
    meters = open_meters(tmp_path, nvml)
    counter.write_text("8000000")
    nvml.broken = "GPU is lost"
    use = meters.used(from_seconds(2))
    assert (use.joules, use.watts) == ({"cpu": 8.0}, 4.0)
    assert use.unread == {"gpu": "NVML: GPU is lost"}


def test_a_machine_without_any_meter_gives_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    use = open_meters(tmp_path).used(from_seconds(1))
    assert (use.watts, use.queries_per_joule(9.0)) == (None, None)
    assert "no counter" in use.unread["cpu"]
    assert "pip install nvidia-ml-py" in use.unread["gpu"]


def test_nvml_is_the_module_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvml([4000])
    names = [name for name in dir(fake) if name.startswith(("nvml", "NVML"))]
    module = SimpleNamespace(**{name: getattr(fake, name) for name in names})
    monkeypatch.setitem(sys.modules, "pynvml", module)
    meters = open_meters(tmp_path)
    fake.millijoules[0] = 9000
    assert meters.used(from_seconds(1)).joules == {"gpu": 5.0}


def test_no_time_gives_no_power() -> None:
    assert EnergyUse(seconds=0.0, joules={"cpu": 1.0}, unread={}).watts is None
