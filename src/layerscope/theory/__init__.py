from layerscope.theory.macs import conv_macs, conv_transpose_macs, linear_macs, macs

__all__ = ["conv_macs", "conv_transpose_macs", "linear_macs", "macs"]
