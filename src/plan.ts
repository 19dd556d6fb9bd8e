export interface ResolvedPrompt {
	readonly tokenIds: readonly number[];
	readonly tokenIndex: number;
	/** Text of the token at `tokenIndex`. */
	readonly token: string;
}
