"""The smallest member of every family of timm, and the size of its image here."""

from typing import Any

# Name: pixels, options of timm.create_model; the comment is the module of timm.models. Chosen with
# timm 1.0.31: the model with the fewest parameters of each module, built on the meta device. The
# size is the first of 64, 96, 128, 160, 192 pixels and its default on which it runs in train mode,
# with img_size= if it does not run without.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (64, {"img_size": 64}),  # beit
    "halonet_h1": (256, {}),  # byoanet
    "test_byobnet": (64, {}),  # byobnet
    "cait_xxs24_224": (64, {"img_size": 64}),  # cait
    "coat_tiny": (64, {"img_size": 64}),  # coat
    "convit_tiny": (64, {"img_size": 64}),  # convit
    "convmixer_768_32": (64, {}),  # convmixer
    "test_convnext": (64, {}),  # convnext
    "cpubone_nano": (64, {}),  # cpubone
    "crossvit_tiny_240": (64, {}),  # crossvit
    "csatv2": (64, {}),  # csatv2
    "cs3darknet_focus_s": (64, {}),  # cspnet
    "cspnext_tiny": (64, {}),  # cspnext
    "davit_tiny": (64, {}),  # davit
    "deepseek_vit_412m": (56, {}),  # deepseek_vit
    "deit_tiny_patch16_224": (64, {"img_size": 64}),  # deit
    "densenet121": (64, {}),  # densenet
    "dla46x_c": (64, {}),  # dla
    "dpn48b": (64, {}),  # dpn
    "edgenext_xx_small": (64, {}),  # edgenext
    "efficientformer_l1": (224, {}),  # efficientformer
    "efficientformerv2_s0": (64, {"img_size": 64}),  # efficientformer_v2
    "test_efficientnet": (64, {}),  # efficientnet
    "efficientvim_m1": (64, {}),  # efficientvim
    "efficientvit_b0": (64, {}),  # efficientvit_mit
    "efficientvit_m0": (64, {}),  # efficientvit_msra
    "vit_tiny_patch16_dinov3_qkvb": (64, {}),  # eva
    "fasternet_t0": (64, {}),  # fasternet
    "fastvit_t8": (64, {}),  # fastvit
    "focalnet_tiny_srf": (64, {}),  # focalnet
    "gcvit_xxtiny": (64, {"img_size": 64}),  # gcvit
    "gemma4_vit_167m": (64, {}),  # gemma4_vit
    "ghostnet_050": (64, {}),  # ghostnet
    "hardcorenas_b": (64, {}),  # hardcorenas
    "hgnetv2_b0": (64, {}),  # hgnet
    "hiera_tiny_224": (64, {"img_size": 64}),  # hiera
    "sam2_hiera_tiny": (64, {}),  # hieradet_sam2
    "hrnet_w18_small": (64, {}),  # hrnet
    "iformer_t": (64, {}),  # iformer
    "inception_next_atto": (64, {}),  # inception_next
    "inception_resnet_v2": (96, {}),  # inception_resnet_v2
    "inception_v3": (96, {}),  # inception_v3
    "inception_v4": (96, {}),  # inception_v4
    "lcnetv2_small": (64, {}),  # lcnetv2
    "levit_128s": (64, {"img_size": 64}),  # levit
    "lowformer_b0": (64, {}),  # lowformer
    "test_mambaout": (64, {}),  # mambaout
    "test_coatnet": (64, {"img_size": 64}),  # maxxvit
    "poolformerv2_s12": (64, {}),  # metaformer
    "gmlp_ti16_224": (64, {"img_size": 64}),  # mlp_mixer
    "mobilenetv3_small_050": (64, {}),  # mobilenetv3
    "mobilenetv5_base": (64, {}),  # mobilenetv5
    "mobilevit_xxs": (64, {}),  # mobilevit
    "mvitv2_tiny": (64, {}),  # mvitv2
    "naflexvit_base_patch16_parfac_gap": (64, {}),  # naflexvit
    "nasnetalarge": (64, {}),  # nasnet
    "nest_tiny": (64, {"img_size": 64}),  # nest
    "nextvit_small": (64, {}),  # nextvit
    "test_nfnet": (64, {}),  # nfnet
    "pit_ti_224": (64, {"img_size": 64}),  # pit
    "pnasnet5large": (64, {}),  # pnasnet
    "pvt_v2_b0": (64, {}),  # pvt_v2
    "qwen3_vit_88m": (64, {}),  # qwen3_vit
    "rdnet_tiny": (64, {}),  # rdnet
    "regnetx_002": (64, {}),  # regnet
    "repghostnet_050": (64, {}),  # repghost
    "repvit_m1": (64, {}),  # repvit
    "res2next50": (64, {}),  # res2net
    "resnest14d": (64, {}),  # resnest
    "test_resnet": (64, {}),  # resnet
    "resnetv2_18": (64, {}),  # resnetv2
    "rexnet_100": (64, {}),  # rexnet
    "selecsls42": (64, {}),  # selecsls
    "legacy_seresnet18": (64, {}),  # senet
    "sequencer2d_s": (64, {}),  # sequencer
    "shvit_s1": (64, {}),  # shvit
    "skresnet18": (64, {}),  # sknet
    "starnet_s050": (64, {}),  # starnet
    "swiftformer_xs": (64, {}),  # swiftformer
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64}),  # swin_transformer
    "swinv2_tiny_window8_256": (64, {"img_size": 64}),  # swin_transformer_v2
    "swinv2_cr_tiny_224": (64, {"img_size": 64}),  # swin_transformer_v2_cr
    "tiny_vit_5m_224": (64, {}),  # tiny_vit
    "tnt_s_legacy_patch16_224": (64, {"img_size": 64}),  # tnt
    "tresnet_m": (64, {}),  # tresnet
    "twins_svt_small": (64, {}),  # twins
    "vgg11": (64, {}),  # vgg
    "visformer_tiny": (64, {"img_size": 64}),  # visformer
    "test_vit": (64, {}),  # vision_transformer
    "vit_tiny_r_s16_p8_224": (64, {"img_size": 64}),  # vision_transformer_hybrid
    "test_vit_relpos": (64, {"img_size": 64}),  # vision_transformer_relpos
    "samvit_base_patch16_224": (64, {}),  # vision_transformer_sam
    "vitamin_small_224": (64, {"img_size": 64}),  # vitamin
    "volo_d1_224": (64, {"img_size": 64}),  # volo
    "ese_vovnet19b_slim_dw": (64, {}),  # vovnet
    "legacy_xception": (64, {}),  # xception
    "xception41p": (64, {}),  # xception_aligned
    "xcit_nano_12_p8_224": (64, {}),  # xcit
}
