/* SPDX-License-Identifier: MIT OR Apache-2.0 */
	.section .rodata
	.global module_start, module_end
module_start:
	.incbin "layoutcall.ko"
module_end:
	.section .note.GNU-stack, "", @progbits
