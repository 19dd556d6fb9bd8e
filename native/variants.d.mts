export declare function findVariants(where: {
  localFolder: string;
  scopes: readonly string[];
  platform: string;
  arch: string;
  release: string;
}): { variant: string; directory: string; origin: 'local' | 'prebuilt' }[];
