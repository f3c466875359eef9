"""Many kinds of models, one small step of each: what calls cost between the usual ones."""

from __future__ import annotations

from validate.bench.models import draws
from validate.bench.models.cases import Case
from validate.bench.models.draws import SGD, Draw

DRAW = Draw(
    last=("bat_resnext26ts", "botnet26t_256", "halonet26t", "eca_nfnet_l0",
          "efficientvit_b0", "rexnet_100", "skresnet18", "xception41", "ghostnetv2_100",
          "gcresnet33ts", "regnetz_b16", "fbnetv3_b", "inception_v4", "mixnet_s",
          "hrnet_w18_small", "selecsls42b", "tinynet_a", "starnet_s1"),
    trained=(
        ("hiera_tiny_224", 8, 0, 3.0, {}),
        ("skresnet18", 16, 0, 3.0, SGD),
        ("roformer_base", 4, 128, 4.0, {}),
        ("mobilebert", 4, 128, 3.0, {}),
        ("tiny_vit_5m_224", 16, 0, 3.0, {}),
        ("nest_tiny", 8, 0, 3.0, {}),
        ("volo_d1_224", 8, 0, 3.0, {}),
        ("glm_small", 2, 256, 4.0, {}),
        ("fbnetv3_b", 16, 0, 3.0, {}),
        ("twins_svt_small", 8, 0, 3.0, {}),
    ),
    inferred=(
        ("roformer_base", 4, 128), ("squeezebert_base", 4, 128), ("mobilebert", 4, 128),
        ("xlnet_base", 4, 128), ("codegen_small", 2, 256), ("mpt_small", 2, 256),
        ("modernbert_base", 4, 128), ("nystromformer_base", 4, 256),
        ("megatronbert_small", 4, 128), ("ernie_base", 4, 128), ("openai_gpt", 2, 256),
        ("cohere_small", 2, 256), ("helium_small", 2, 256), ("olmo_small", 2, 256),
        ("glm_small", 2, 256), ("nemotron_small", 2, 256), ("persimmon_small", 2, 256),
        ("vit_msn_small", 8, 0), ("glpn_nyu", 4, 0), ("bit_50", 8, 0), ("pvt_tiny_hf", 8, 0),
        ("dinov2_registers_small", 4, 0),
        ("bat_resnext26ts", 8, 0), ("botnet26t_256", 8, 0), ("halonet26t", 8, 0),
        ("eca_nfnet_l0", 8, 0), ("visformer_small", 8, 0),
        ("crossvit_9_240", 8, 0), ("convit_tiny", 8, 0), ("efficientvit_b0", 8, 0),
        ("efficientvit_m0", 8, 0), ("hiera_tiny_224", 8, 0), ("nest_tiny", 8, 0),
        ("repvit_m1", 8, 0), ("resmlp_12_224", 8, 0), ("rexnet_100", 8, 0), ("rdnet_tiny", 8, 0),
        ("skresnet18", 8, 0), ("swiftformer_xs", 8, 0), ("tiny_vit_5m_224", 8, 0),
        ("xception41", 8, 0), ("ghostnetv2_100", 8, 0), ("davit_tiny", 8, 0),
        ("maxxvit_rmlp_nano_rw_256", 8, 0), ("gcresnet33ts", 8, 0), ("regnetz_b16", 8, 0),
        ("mobilevitv2_050", 8, 0), ("levit_128s", 8, 0), ("sequencer2d_s", 8, 0),
        ("coat_tiny", 8, 0), ("fbnetv3_b", 8, 0),
        ("inception_next_tiny", 8, 0), ("inception_v4", 8, 0), ("poolformerv2_s12", 8, 0),
        ("mixnet_s", 8, 0), ("nextvit_small", 8, 0), ("tnt_s_patch16_224", 8, 0),
        ("twins_svt_small", 8, 0), ("volo_d1_224", 8, 0), ("mambaout_tiny", 8, 0),
        ("eva02_tiny_patch14_224", 8, 0), ("efficientformerv2_s0", 8, 0),
        ("hrnet_w18_small", 8, 0), ("resnet50_gn", 8, 0), ("selecsls42b", 8, 0),
        ("tinynet_a", 8, 0), ("vit_relpos_small_patch16_224", 8, 0), ("starnet_s1", 8, 0),
    ),
    decoded=(),
    compiled=(),
    trained_compiled=(),
)  # fmt: skip


def eager() -> list[Case]:
    """Cases that nothing compiles."""
    return draws.eager(DRAW)
