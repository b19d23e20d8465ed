"""The fast path of a detector, stage by stage: resize -> trunk -> RPN -> RoI -> post.

    - stage_times  where the time goes
    - resizing     pictures to one padded batch, as torchvision does it
    - convolutions BatchNorm folded away; activations and additions computed by the convolution before
    - boxes        anchors, box decoding, clipping
    - suppression  non-maximum suppression over many groups at once
    - roi_align    the features of each proposal, from all pyramid levels in one gather
    - fast_network all of it, from a batch of pixels to a batch of boxes
    - cuda_graphs  the same, recorded once a shape and replayed

Every tensor has a fixed shape with a mask of what is valid, so that nothing waits for the device until
the answer is copied. On a CPU, where waiting costs nothing, invalid rows are left out instead.
"""
