import pytest

from tokenmill.data.document import Document
from tokenmill.data.filters.sample import Sample, SampleConfig
from tokenmill.errors import ConfigError


def chosen(share: float, seed: int = 0) -> set[str]:
    block = Sample(SampleConfig(share=share, seed=seed))
    return {str(i) for i in range(2000) if block.judge(Document(id=str(i), text="")) is None}


def test_shares() -> None:
    assert chosen(0) == set()
    assert len(chosen(1)) == 2000
    assert 500 < len(chosen(0.3)) < 700
    assert chosen(0.1) < chosen(0.3)
    assert chosen(0.3) != chosen(0.3, seed=1)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_wrong_shares(share: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Sample(SampleConfig(share=share))
